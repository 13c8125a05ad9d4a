"""torch's modes and random state: default ones inside, and the caller's again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

#: Devices whose autocast is switched off.
AUTOCAST_DEVICES = ("cpu", "cuda")
#: Held by the one thread that uses what all threads share: torch's random state, its exporters, the filters of warnings.
ALONE = threading.RLock()


@contextmanager
def default_modes() -> Iterator[None]:
    """Switches derivatives on and inference mode and autocast off; the caller's modes come back at the end.

    Learning and Hessians need derivatives, and tensors made in inference mode can never have any. Autocast would round what is
    measured and traced.
    """
    with torch.inference_mode(False), torch.enable_grad(), no_autocast():
        yield


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switches autocast off; regions of autocast inside the block switch it on again."""
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restores the random state of the CPU and of every GPU at the end; no other thread is in such a block meanwhile.

    ``torch.manual_seed`` seeds all GPUs, so all are restored. They are named: otherwise torch warns where there are several.
    """
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    devices = range(torch.get_device_module(kind).device_count())
    with ALONE, torch.random.fork_rng(devices=devices, device_type=kind):
        yield
