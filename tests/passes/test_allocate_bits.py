"""The limits hold, what is planned is what is there, and what matters more gets more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig
from qpass.config.budget import BudgetConfig
from qpass.data import ModelInputs
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.nn import QuantizedLayer
from qpass.passes import AllocateBits, Annotate, Calibrate, Canonicalize, InsertQuantizers
from qpass.passes.allocate_bits import Allocated
from qpass.passes.analysis.statistics import Statistics
from qpass.quantizers import Quantizer


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(5)).split(8))


def quantize(vit: nn.Module, batches: list[Tensor], **budget: Any) -> fx.GraphModule:
    config = {"preset": "mixed-w4a5", "budget": None} | ({"budget": BudgetConfig(**budget)} if budget else {})
    return qpass.quantize_graph(vit, batches, config, progress=False)


def mean(rows: tuple[Allocated, ...], kind: str) -> float:
    rows = tuple(row for row in rows if row.kind == kind and len(row.errors) > 1)
    return sum(row.bits * row.size for row in rows) / sum(row.size for row in rows)


@pytest.fixture(scope="module")
def shared_out(vit: nn.Module, batches: list[Tensor]) -> fx.GraphModule:
    return quantize(vit, batches, activation_bits=5.5, weight_bits=3.6)


def test_the_means_are_kept_and_used(shared_out: fx.GraphModule) -> None:
    rows = qpass.quantization_report(shared_out).allocation
    for kind, limit in (("activation", 5.5), ("weight", 3.6)):
        assert limit - 0.3 < mean(rows, kind) <= limit
        assert len({row.bits for row in rows if row.kind == kind}) > 1


def test_modules_and_report_have_the_widths_that_were_given(shared_out: fx.GraphModule) -> None:
    report = qpass.quantization_report(shared_out)
    modules = list(shared_out.modules())
    layers = [module for module in modules if isinstance(module, QuantizedLayer)]
    assert [layer.quantizer.bits for layer in layers] == [row.bits for row in report.allocation if row.kind == "weight"]  # type: ignore[union-attr]
    inside = {id(layer.quantizer) for layer in layers}
    bits = sorted(m.bits for m in modules if isinstance(m, Quantizer) and id(m) not in inside)
    assert bits == sorted(row.bits for row in report.allocation if row.kind == "activation")
    planned = {row.path: row.weight_bits for row in report.layers if row.weight_bits}
    assert planned == {row.path: row.bits for row in report.allocation if row.kind == "weight"}
    widths = {row.path: row.bits for row in report.allocation if row.kind == "activation" and ".mlp." in row.path}
    assert widths == {row.path: row.input_bits[0] for row in report.layers if ".mlp." in row.path}


@pytest.mark.slow
def test_the_file_is_the_same_network(shared_out: fx.GraphModule, batches: list[Tensor], tmp_path: Path) -> None:
    path = qpass.export_onnx(shared_out, tmp_path / "model.onnx")
    assert qpass.verify_onnx(shared_out, path, batches[0]).passed


@pytest.mark.slow
def test_within_one_mean_the_least_error_is_had(vit: nn.Module, batches: list[Tensor]) -> None:
    """No choice of 4 and 8 bits within the mean has less error, and the network is nearer on unseen images than at 4 bits."""
    unseen = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    ours = quantize(vit, batches, activation_bits=5.5)
    rows = [row for row in qpass.quantization_report(ours).allocation if row.kind == "activation" and len(row.errors) > 1]
    errors, sizes = np.array([[row.errors[4], row.errors[8]] for row in rows]), np.array([row.size for row in rows])
    wide = np.arange(2 ** len(rows))[:, None] >> np.arange(len(rows)) & 1  # every choice, one in a row
    allowed = (4 + 4 * (wide @ sizes) / sizes.sum()) <= 5.5
    least = (errors[:, 0].sum() + wide[allowed] @ (errors[:, 1] - errors[:, 0])).min()
    assert sum(row.errors[row.bits] for row in rows) == pytest.approx(least, rel=2e-4)
    plain = quantize(vit, batches)
    squared = [(graph(unseen) - vit(unseen)).square().sum().item() for graph in (plain, ours)]
    assert squared[1] < 0.9 * squared[0]


def test_the_errors_are_those_of_the_output() -> None:
    """Of a network whose last layer is linear in what is quantized, they can be computed: ‖e Wᵀ‖², ‖x Eᵀ‖², over ‖y‖²."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 6)).eval()
    x = torch.randn(4096, 8)
    graph, statistics, batches = trace(model, (x,)), Statistics(), [ModelInputs((part,), {}) for part in x.split(1024)]
    config = QuantConfig.from_any({"preset": "w4a4", "rotate_residual": False, "rotate_heads": False})
    budget = BudgetConfig(activation_bits=4, weight_bits=4, samples=4096)
    for step in (
        Canonicalize(),
        Annotate(config),
        Calibrate(batches, statistics, per_channel=False),
        InsertQuantizers(statistics),
        AllocateBits(budget, batches, statistics),
    ):
        step(graph)
    hidden, weight = model[:2](x), model[2].weight
    layer = next(m for m in graph.modules() if isinstance(m, QuantizedLayer) and m.weight_shape == (6, 24))
    quantizer = next(m for m in graph.children() if isinstance(m, Quantizer) and m.bits == 4)
    assert layer.quantizer is not None
    changes = {
        "activation": (quantizer(hidden) - hidden) @ weight.T,
        "weight": hidden @ (layer.quantizer(weight) - weight).T,
    }
    rows = {row.kind: row for row in facts_of(graph).allocation or () if row.path == "2"}
    for kind, change in changes.items():
        expected = (change.square().sum() / model(x).square().sum()).item()
        assert rows[kind].errors[4] == pytest.approx(expected, rel=0.1), kind  # an estimate from 4096 draws


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [0.08, 0.09])
def test_the_file_is_no_larger_than_asked_for(vit: nn.Module, batches: list[Tensor], tmp_path: Path, megabytes: float) -> None:
    graph = quantize(vit, batches[:2], file_mb=megabytes)
    size = qpass.export_onnx(graph, tmp_path / "model.onnx").stat().st_size
    assert 0.6 * megabytes < size / 1e6 <= megabytes


def test_a_limit_that_cannot_be_kept_is_refused_with_the_least_that_can(vit: nn.Module, batches: list[Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"budget.activation_bits: got 3; expected at least 4 with these bit widths"):
        quantize(vit, batches[:1], activation_bits=3)
    with pytest.raises(ConfigError, match=r"budget.file_mb: got 0.001; expected at least 0.0"):
        quantize(vit, batches[:1], file_mb=0.001)


def test_what_no_limit_concerns_keeps_its_width(vit: nn.Module, batches: list[Tensor]) -> None:
    rows = qpass.quantization_report(quantize(vit, batches[:1], weight_bits=5)).allocation
    assert {row.bits for row in rows if row.kind == "activation"} == {4, 8}, "8 is the network's input"
    assert all(len(row.errors) == 1 for row in rows if row.kind == "activation")


def test_what_a_rule_or_its_role_sets_apart_keeps_its_width(vit: nn.Module, batches: list[Tensor]) -> None:
    rules = {"blocks.0.mlp.fc1": {"activation": {"bits": 6}, "weight": {"bits": 7}}}
    budget = {"activation_bits": 5.5, "weight_bits": 4}
    config = {"preset": "mixed-w4a5", "post_softmax": {"bits": 5}, "rules": rules, "budget": budget}
    report = qpass.quantization_report(qpass.quantize_graph(vit, batches[:1], config, progress=False))
    rows = {(row.path, row.kind): row for row in report.allocation}
    assert rows["blocks.0.mlp.fc1", "activation"].bits == 6
    assert rows["blocks.0.mlp.fc1", "weight"].bits == 7
    assert 4.5 < mean(report.allocation, "activation") <= 5.5, "of the others"
    products = [row.input_bits for row in report.layers if row.kind == "matmul"]
    assert {bits[0] for bits in products[1::2]} == {5}, "Softmax outputs"


def test_a_layer_that_reads_another_layer_has_its_widths() -> None:
    """Nothing lies between the two, so that what was observed is the output of a node that has been replaced since."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)).eval()
    graph = qpass.quantize_graph(model, [torch.randn(64, 8)], {"preset": "mixed-w4a5"}, progress=False)
    rows = [row for row in qpass.quantization_report(graph).allocation if row.kind == "activation"]
    assert [len(row.errors) for row in rows] == [1, 2, 2], "the first reads the network's input"


def test_a_graph_of_a_fixed_batch_is_run_as_it_is() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).relu()) * len(list(x))

    with pytest.warns(UserWarning, match="the batch is fixed at 6"):
        graph = qpass.quantize_graph(Fixed().eval(), [torch.randn(6, 8), torch.randn(6, 8)], "mixed-w4a5", progress=False)
    report = qpass.quantization_report(graph)
    assert not report.dynamic_batch
    assert len(report.allocation) == 4


def test_the_same_call_gives_the_same_widths(vit: nn.Module, batches: list[Tensor], shared_out: fx.GraphModule) -> None:
    again = quantize(vit, batches, activation_bits=5.5, weight_bits=3.6)
    assert qpass.quantization_report(again).allocation == qpass.quantization_report(shared_out).allocation


def test_the_report_comes_back_from_json_and_shows_the_choice(shared_out: fx.GraphModule) -> None:
    report = qpass.quantization_report(shared_out)
    assert type(report).from_json(report.to_json()) == report
    assert "bits on average" in str(report)
    assert "Bit widths within the budget" in report.to_html()
