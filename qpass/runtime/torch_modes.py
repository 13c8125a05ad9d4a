"""torch's modes and random state: defaults inside, the caller's restored afterwards."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from qpass.runtime.float32_products import full_products

P = ParamSpec("P")
R = TypeVar("R")

#: Devices whose autocast is switched off.
AUTOCAST_DEVICES = ("cpu", "cuda")
#: Lock on process-wide state: torch's exporters and flags, and the warning filters.
SHARED_STATE = threading.RLock()


def in_known_state(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a public function in torch's default modes, one thread at a time across all such functions.

    Other threads wait. So nothing that the function calls, such as the caller's loader, may wait for
    another thread that calls one of these functions.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with SHARED_STATE, default_modes():
            return function(*args, **kwargs)

    return run


@contextmanager
def default_modes() -> Iterator[None]:
    """Enters torch's default modes; restores the caller's at the end.

    Gradients are on: learning and Hessians need them, and tensors made in inference mode can never have
    any. Autocast, other default dtypes and devices, and reduced-precision float32 products are off:
    they would change what is measured and traced. So are modes that intercept torch's functions, such
    as ``torch.device("meta")`` as a context and ``FakeTensorMode``.
    """
    with _no_takeover(), torch.inference_mode(False), torch.enable_grad(), no_autocast(), _default_flags():
        yield


@contextmanager
def _no_takeover() -> Iterator[None]:
    """Removes this thread's modes that intercept functions or operators from their stacks."""
    count = torch._C._len_torch_function_stack()
    taken = [torch._C._pop_torch_function_stack() for _ in range(count)]
    try:
        with _disable_current_modes():
            yield
    finally:
        for mode in reversed(taken):
            torch._C._push_on_torch_function_stack(mode)


@contextmanager
def _default_flags() -> Iterator[None]:
    """Resets process-wide flags that change results to their defaults."""
    dtype = torch.get_default_dtype()
    if dtype is not torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with full_products():
            yield
    finally:
        if dtype is not torch.float32:
            torch.set_default_dtype(dtype)


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switches autocast off; autocast regions inside the block still switch it on."""
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


class _Draws(TorchDispatchMode):
    """Detects operators that draw from torch's own generators."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Lets a model that compiles parts of itself, such as flex_attention, run as without this mode."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See ``TorchDispatchMode``."""
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            self.any = True  # calls in its body are not dispatched here
        else:
            self.any = self.any or (torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs))
        return func(*args, **kwargs)


def _draws(operator: Any, args: Any, kwargs: Any) -> bool:
    """Returns whether a call of a random operator draws: dropout with p = 0 or in eval mode does not."""
    names = [argument.name for argument in operator._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    share = given.get("dropout_p", given.get("dropout", 0.0 if "dropout_p" in names else 1.0))
    return given.get("generator") is None and share != 0 and given.get("train", given.get("training", True)) is not False


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restores the random state of the CPU and of every GPU at the end, if this thread has drawn from it.

    Otherwise the state is left alone: another thread may draw meanwhile, and would get the same numbers
    again.
    """
    accelerator = torch.accelerator.current_accelerator()
    module = torch.get_device_module("cuda" if accelerator is None else accelerator.type)
    before = torch.get_rng_state(), [module.get_rng_state(index) for index in range(module.device_count())]
    draws = _Draws()
    try:
        with draws:
            yield
    finally:
        if draws.any:
            torch.set_rng_state(before[0])
            for index, state in enumerate(before[1]):
                module.set_rng_state(state, index)
