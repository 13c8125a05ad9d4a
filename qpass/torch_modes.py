"""torch's default modes, whatever modes the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def default_modes() -> Iterator[None]:
    """Switches derivatives on and inference mode and autocast off; the caller's modes come back at the end.

    Learning and Hessians need derivatives, and tensors made in inference mode can never have any. Autocast would round what is
    measured and traced.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
