from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import qpass
from qpass.runtime.torch_modes import kept_random_state


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """Three GPUs that have nothing but a random state."""
    states = {index: torch.full((4,), index, dtype=torch.uint8) for index in range(3)}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[int(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({int(device): state}))
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    return states


def test_the_random_state_of_every_gpu_is_restored(gpus: dict[int, torch.Tensor]) -> None:
    before, cpu = {index: state.clone() for index, state in gpus.items()}, torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with kept_random_state():
            torch.rand(3)
            for index in gpus:
                gpus[index] = torch.full((4,), 9, dtype=torch.uint8)
    assert all(torch.equal(gpus[index], state) for index, state in before.items())
    assert torch.equal(torch.get_rng_state(), cpu)


def test_what_a_branch_draws_is_noticed() -> None:
    before = torch.get_rng_state()
    with kept_random_state(), torch.no_grad():
        torch.cond(torch.tensor(True), lambda x: x * torch.rand(3), lambda x: x + 1, (torch.ones(3),))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_that_is_not_drawn_from_is_left_alone() -> None:
    with kept_random_state():
        state = torch.Generator().manual_seed(5).get_state()
        torch.set_rng_state(state)  # as another thread does
        torch.ones(3) + 1
        torch.rand(3, generator=torch.Generator())
        q = torch.ones(1, 2, 3, 4)
        F.dropout(F.scaled_dot_product_attention(q, q, q), 0.5, training=False)
    assert torch.equal(torch.get_rng_state(), state)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def coarse_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": default_device,
    "device context": lambda: torch.device("meta"),
    "fake tensors": FakeTensorMode,
    "coarse products": coarse_products,
}


def state() -> tuple[Any, ...]:
    """Everything that the modes above change, and torch's random state."""
    return (
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        *(torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision()),
        torch._C._len_torch_function_stack(),
        [type(mode) for mode in _get_current_dispatch_mode_stack()],
        torch.get_rng_state().tolist() if torch.get_default_device().type == "cpu" else None,
    )


def way(model: nn.Module, x: Tensor, recipe: Any, folder: Path) -> bytes:
    """Takes a model the whole way."""
    graph = qpass.quantize_graph(model, [x], recipe, progress=False)
    path = qpass.export_onnx(graph, folder / "m.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    qpass.load(qpass.save(graph, folder / "m.qpass"))
    return (folder / "m.qpass").read_bytes()


@pytest.fixture(scope="module")
def expected(vit: nn.Module, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return way(vit, images, LEARNED, tmp_path_factory.mktemp("expected"))


LEARNED = {"preset": "aiqvit-w4a4", "reconstruction": {"ranks": [2], "search_steps": 2, "steps": 4, "batch_size": 4}}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_the_callers_modes_change_nothing_and_come_back(
    name: str, vit: nn.Module, images: Tensor, expected: bytes, tmp_path: Path
) -> None:
    gray = images[:, :1]
    with MODES[name]():
        before = state()
        found = way(vit, images, LEARNED, tmp_path)
        with pytest.raises(qpass.QPassError):
            qpass.quantize_graph(vit, [gray], progress=False)
        assert state() == before
    assert found == expected
