from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import called_module
from qpass.nn import QuantizedLinear
from qpass.passes import Freeze
from qpass.passes.analysis.reference import float_reference
from qpass.report.collect import collect_report, sqnr_db
from tests.live_bytes import LiveBytes

TOKENS, WIDTH = 128, 256


def graphs(depth: int) -> tuple[fx.GraphModule, fx.GraphModule, ModelInputs]:
    """Returns a float graph, the same frozen, and a batch."""
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(depth)]
    batch = ModelInputs((torch.randn(8, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)),), {})
    graph = trace(nn.Sequential(*layers).eval(), batch.args)
    *steps, freeze = pipeline(QuantConfig.from_any("w8a8"), [batch])
    for step in steps:
        step(graph)
    reference = float_reference(graph)
    assert isinstance(freeze, Freeze)
    freeze(graph)
    return reference, graph, batch


def test_float_values_are_dropped_when_they_have_been_compared() -> None:
    peaks = []
    for depth in (2, 10):
        given = graphs(depth)
        with LiveBytes() as live:
            collect_report(*given)
        peaks.append(live.peak)
    value = 8 * TOKENS * WIDTH * 4
    assert peaks[1] < peaks[0] + value, "eight more layers have as many values"


def test_figures_are_those_of_two_whole_runs() -> None:
    reference, graph, batch = graphs(3)
    expected, found = (fx.Interpreter(copy.deepcopy(g), garbage_collect_values=False) for g in (reference, graph))
    outputs = [run.run(*batch.args) for run in (expected, found)]
    report = collect_report(reference, graph, batch)

    def value(run: fx.Interpreter, name: str) -> Tensor:
        return next(value for node, value in run.env.items() if node.name == name)

    linears = [node.name for node in graph.graph.nodes if isinstance(called_module(graph, node), QuantizedLinear)]
    errors = [sqnr_db(value(expected, name), value(found, name)) for name in linears]
    assert [layer.sqnr_db for layer in report.layers] == errors
    assert len(errors) == 3
    assert report.output_sqnr_db == sqnr_db(*outputs)


def test_of_several_outputs_the_worst_counts() -> None:
    class Outputs(nn.Module):
        """What it was given, whole numbers, and what it computes."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.layer(x)
            return x, y.argmax(-1), y

    batch = ModelInputs((torch.randn(8, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)),), {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Outputs().eval()
    graph = qpass.quantize_graph(model, [batch.args[0]], "w4a8", progress=False)
    with torch.no_grad():
        assert qpass.quantization_report(graph).output_sqnr_db == pytest.approx(
            sqnr_db(model(*batch.args)[2], graph(*batch.args)[2]), abs=0.5
        )


def test_values_of_other_shapes_have_no_figure() -> None:
    """Rows that a network chooses by value may be more or fewer once it is quantized."""
    assert math.isnan(sqnr_db(torch.ones(4, 3), torch.ones(5, 3)))
