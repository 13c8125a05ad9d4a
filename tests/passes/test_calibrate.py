"""What calibration records is what the network computes, of every batch once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import CalibrationError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes import Annotate, Calibrate, Canonicalize
from qpass.passes.analysis.statistics import Statistics
from qpass.runtime.distributed import Processes


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.one, self.two = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.norm(x)).tanh())


MODEL = Model().eval()
PARTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).split([8, 8, 8, 8, 8])


def calibrated(
    parts: tuple[Tensor, ...] = PARTS, *, per_channel: bool = True, **options: object
) -> tuple[fx.GraphModule, Statistics]:
    graph, statistics = trace(MODEL, (PARTS[0],)), Statistics()
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    batches = [ModelInputs((part,), {}) for part in parts]
    Calibrate(batches, statistics, per_channel=per_channel, **options)(graph)  # type: ignore[arg-type]
    return graph, statistics


def test_every_value_of_every_batch_is_counted() -> None:
    graph, statistics = calibrated()
    x = torch.cat(PARTS)
    norm, tanh = next(calls(graph, aten.layer_norm.default)), next(calls(graph, aten.tanh.default))
    assert set(statistics.tensors) == {norm, tanh}
    for node, expected in ((norm, MODEL.norm(x)), (tanh, MODEL.one(MODEL.norm(x)).tanh())):
        centres, counts = (t[0].numpy() for t in statistics.tensors[node].samples())
        values = np.sort(expected.detach().numpy().ravel()).astype(np.float64)
        assert counts.sum() == values.size
        assert (centres[0], centres[-1]) == (values[0], values[-1])
        found = np.repeat(centres, counts)
        width = (values[-1] - values[0]) / 4096  # of 8,192 bins at most twice as wide
        assert np.abs(found - values).max() <= width


@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_of_foldable_norms_are_recorded_where_they_are_asked_for(per_channel: bool) -> None:
    graph, statistics = calibrated(per_channel=per_channel)
    norm = next(calls(graph, aten.layer_norm.default))
    assert list(statistics.channels) == ([norm] if per_channel else [])
    if per_channel:
        expected = MODEL.norm(torch.cat(PARTS)).double()
        assert torch.equal(statistics.channels[norm].low, expected.amin(0))
        assert torch.equal(statistics.channels[norm].high, expected.amax(0))


def test_the_batches_do_not_matter() -> None:
    whole, parts = calibrated((torch.cat(PARTS),))[1], calibrated()[1]
    for a, b in zip(whole.tensors.values(), parts.tensors.values(), strict=True):
        assert torch.allclose(a.low, b.low, rtol=1e-6)
        assert a.samples()[1].sum() == b.samples()[1].sum()


def test_a_process_counts_its_own_share() -> None:
    seen = list[int]()

    class Alone(Processes):
        """The second of two processes, without the other."""

        def share(self, items):  # type: ignore[no-untyped-def]
            seen.extend(len(item.args[0]) for item in list(items)[1::2])
            return list(items)[1::2]

    _, statistics = calibrated(processes=Alone())
    assert sum(seen) == 16
    assert next(iter(statistics.tensors.values())).samples()[1].sum() == 16 * 6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_by_name(value: float) -> None:
    bad: Callable[[Tensor], Tensor] = lambda x: x.index_fill(0, torch.tensor([3]), value)  # noqa: E731
    with pytest.raises(CalibrationError, match=r"norm \(.*\): NaN or infinite values"):
        calibrated((PARTS[0], bad(PARTS[1])))
