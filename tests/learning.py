"""What tests of recipes that change weights share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.graph.facts import facts_of
from qpass.progress import StepBar
from qpass.reconstruction import reconstruct

#: For recipes ``wXaY``: weights are rounded to nearest and make up for nothing.
UNCOMPENSATED = {"weight_rounding": "nearest", "compensate_activations": False}


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupts what learns inside at this step, and checks that it was."""
    steps = 0

    class Interrupted(StepBar):
        def advance(self) -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconstruct, "StepBar", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def check_report_compares_with(model: nn.Module, graph: fx.GraphModule, sample: Tensor) -> None:
    """Checks the report's figure of the whole network against the float model itself, in float64."""
    expected, actual = model(sample).double(), graph(sample).double()
    sqnr = 10 * torch.log10(expected.square().sum() / (expected - actual).square().sum())
    assert facts_of(graph).report.output_sqnr_db == pytest.approx(sqnr.item(), abs=0.01)
