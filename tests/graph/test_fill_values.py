"""Fills are told from values, and hide no error: in the comparison with the model, in the report, in the free run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime.output_check import OutputCheck, check_freely, whole_run
from qpass.backends.onnxruntime.uncertainty import OwnError, Uncertainty
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.graph.facts import facts_of
from qpass.graph.fill_values import fill_values, great_values, repeated_fills
from qpass.graph.source_check import Source
from qpass.graph.source_check.output_error import output_error, tensor_error
from qpass.passes.analysis.sensitivity import output_errors
from qpass.report.collect import sqnr_db

FILLS = [torch.finfo(torch.float32).min, -1e30, -1e9, -1e4, -100.0, 1e9]


class Filled(nn.Module):
    """(batch, 8) -> (batch, 5): logits, of which the last one, or that of every other row, is no class."""

    def __init__(self, fill: float, by_row: bool = False, added: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(8, 5)
        self.fill, self.by_row, self.added = fill, by_row, added

    def forward(self, x: Tensor) -> Tensor:
        gone = x[:, :1] > 0 if self.by_row else torch.arange(5) == 4
        return self.layer(x) + gone * self.fill if self.added else self.layer(x).masked_fill(gone, self.fill)


def rows(count: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("fill", FILLS)
def test_only_fills_are_fills(fill: float, share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x, gone = torch.randn(50, 20, generator=generator), torch.rand(50, 20, generator=generator) < share
    y = x.masked_fill(gone, fill)
    assert torch.equal(fill_values(y, y), gone)
    near = torch.where(gone, fill * (1 - 1e-6), y)
    assert not fill_values(near, y).any(), "a value that differs is none"
    assert torch.equal(fill_values(near, y, 1e-5), gone)


def test_ordinary_values_are_not() -> None:
    for values in (torch.zeros(5), torch.full((5,), -1e9), torch.tensor([3.0, float("inf"), float("nan")]), torch.zeros(0)):
        assert not fill_values(values, values).any()
    outlier = torch.tensor([1.0, 2.0, 3.0, 31 * 3.0, 33 * 3.0])
    assert fill_values(outlier, outlier).tolist() == [False] * 4 + [True]
    assert not fill_values(torch.tensor([1, 10**9]), torch.tensor([1, 10**9])).any(), "integers"


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("added", [False, True])
def test_an_error_beside_fills_is_refused(fill: float, by_row: bool, added: bool) -> None:
    model, x = Filled(fill, by_row, added).eval(), rows()
    graph = trace(model, (x,))
    source = Source(model, graph, [ModelInputs((x,), {})])
    source.check(graph, "trace")
    assert facts_of(graph).source_check.error < 1e-5
    with torch.no_grad():
        assert (
            output_error(1.01 * model.layer(x).masked_fill(x[:, :1] > 0, fill), model.layer(x).masked_fill(x[:, :1] > 0, fill))
            > 1e-3
        )
    for linear in calls(graph, aten.linear.default):
        with graph.graph.inserting_after(linear):
            scaled = graph.graph.call_function(aten.mul.Tensor, (linear, 1.001))
        linear.replace_all_uses_with(scaled, delete_user_cb=lambda user, scaled=scaled: user is not scaled)
    graph.recompile()
    with pytest.raises(qpass.SourceError, match="differs from the given model"):
        source.check(graph, "a pass")


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("fill", FILLS)
def test_the_report_counts_what_is_no_fill(fill: float, added: bool) -> None:
    model, x = Filled(fill, added=added).eval(), rows()
    graph = qpass.quantize_graph(model, [x], "mixed-w4a5", progress=False)
    with torch.no_grad():
        expected = sqnr_db(model(x[:8])[:, :4], graph(x[:8])[:, :4])
    assert qpass.quantization_report(graph).output_sqnr_db == pytest.approx(expected, abs=0.1)
    assert expected < 40


@pytest.mark.parametrize("fill", [float("-inf"), float("nan")])
def test_the_report_counts_what_is_finite(fill: float) -> None:
    model, x = Filled(fill).eval(), rows()
    graph = qpass.quantize_graph(model, [x], "mixed-w4a5", progress=False)
    assert 5 < qpass.quantization_report(graph).output_sqnr_db < 40


@pytest.mark.parametrize("fill", FILLS)
def test_a_free_run_that_is_off_beside_fills_is_seen(fill: float) -> None:
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(8, 5)).astype(np.float32)
    found = expected * np.float32(1.01)
    for each in (expected, found):
        each[:, 4] = fill
    own = Uncertainty(1e-4, 0, False)
    check = check_freely(OutputCheck("y", 40, 0, 0, 0.0), found, expected, own)
    assert check.error_ratio > 100
    assert check.sqnr_db == pytest.approx(40, abs=0.1)
    decibels, ratio = whole_run([found], [expected], [own])
    assert decibels == pytest.approx(40, abs=0.1)
    assert ratio > 100


@pytest.mark.parametrize("hidden", [0.1, 0.9])
@pytest.mark.parametrize("fill", [-100.0, -1e4, -1e9])
def test_what_a_fill_is_added_to_hides_no_value(fill: float, hidden: float) -> None:
    """However many are hidden: 10 of 100 values determine what is typical."""
    generator = torch.Generator().manual_seed(1)
    y, gone = torch.randn(10, 10, generator=generator), torch.arange(10) >= 10 - 10 * hidden
    expected, found = y + gone * fill, 1.001 * y + gone * fill
    assert torch.equal(great_values(expected, added=True), gone.expand_as(y))
    assert tensor_error(found, expected, added=True) > 0.9e-3
    assert torch.equal(fill_values(found, expected, added=True), gone.expand_as(y))


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_ordinary_values_are_not_great(count: int) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(count, generator=generator)
        for values in (y, y.abs(), 100 + y):
            assert not great_values(values, added=True).any()


@pytest.mark.parametrize("fill", [-100.0, -1e4, -1e9])
def test_a_free_run_that_is_off_beside_added_fills_is_seen(fill: float, tmp_path: Path) -> None:
    """Rounding moves what is hidden by more than what float32 explains of the others."""
    model, x = Filled(fill, added=True).eval(), rows()
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    outputs = [graph(x).numpy()]
    own = OwnError(graph, ModelInputs((x,), {}), outputs, tie=1e-6).outputs
    assert own[0].distance < 1e-3
    wrong = np.where(np.arange(5) == 4, outputs[0], 1.01 * outputs[0])
    check = check_freely(OutputCheck("y", 40, 0, 0, 0.0), wrong, outputs[0], own[0])
    assert check.error_ratio > 10
    assert check.sqnr_db == pytest.approx(40, abs=0.1)
    decibels, ratio = whole_run([wrong], outputs, own)
    assert decibels == pytest.approx(40, abs=0.1)
    assert ratio > 10
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x).verdict == "passed"


def test_torch_is_not_uncertain_of_fills(tmp_path: Path) -> None:
    """-1e30 is another number in float64."""
    model, x = Filled(-1e30).eval(), rows()
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    outputs = [graph(x).numpy()]
    own = OwnError(graph, ModelInputs((x,), {}), outputs, tie=1e-6)
    own.look_closer()
    assert own.outputs[0].distance < 1
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x).verdict == "passed"


def test_a_great_value_that_is_alone_is_no_fill_where_there_is_nothing_to_compare_with() -> None:
    values = torch.tensor([0.1, -1e9, 0.2, 50.0, -1e9, 0.1])
    assert repeated_fills(values).tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("fill", [*FILLS, float("-inf"), float("nan")])
def test_a_fill_does_not_change_what_errors_do_to_the_output(fill: float) -> None:
    """Widths and weights of tokens come from these figures, which were 0 or NaN."""
    x = rows()

    def errors(model: nn.Module) -> list[float]:
        graph = trace(model.eval(), (x,))
        (linear,) = calls(graph, aten.linear.default)
        return output_errors(graph, {linear: [lambda x: torch.full((len(x), 5), 0.1)]}, [ModelInputs((x,), {})])[linear]

    expected = errors(Filled(0.0))
    assert expected[0] > 0
    assert errors(Filled(fill)) == pytest.approx(expected, rel=1e-4)
