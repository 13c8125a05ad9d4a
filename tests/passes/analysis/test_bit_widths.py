"""What each bit width of a tensor costs, and how one is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.config.budget import BudgetConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.nn import QuantizedLayer
from qpass.passes import AllocateBits
from qpass.passes.analysis.bit_widths import BitWidthOptions, bit_width_options, budget_candidates, megabytes_beside_weights
from qpass.quantizers import Quantizer

BUDGET = BudgetConfig(activation_bits=5, weight_bits=5, activation_widths=(4, 8), weight_widths=(3, 4))


@pytest.fixture
def quantized() -> tuple[fx.GraphModule, list[BitWidthOptions]]:
    """A graph before bit widths are chosen, and its options."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 6)).eval(), torch.randn(32, 8)
    graph = trace(model, (x[:2],))
    for step in pipeline(QuantConfig.from_any("mixed-w4a5"), [ModelInputs((x,), {})]):
        if isinstance(step, AllocateBits):
            return graph, bit_width_options(graph, step.statistics, budget_candidates(graph, BUDGET))
        step(graph)
    raise AssertionError("the recipe has a budget")


def test_activations_come_before_weights_and_the_input_keeps_its_width(
    quantized: tuple[fx.GraphModule, list[BitWidthOptions]],
) -> None:
    _, options = quantized
    found = [(each.kind, each.path, each.open, list(each.fits), each.size) for each in options]
    assert found == [
        ("activation", "0", False, [8], 2 * 8 * 16),  # two rows of the example
        ("activation", "2", True, [4, 8], 2 * 16 * 6),
        ("weight", "0", True, [3, 4], 8 * 16),
        ("weight", "2", True, [3, 4], 16 * 6),
    ]
    assert all(fit.bits == bits for each in options for bits, fit in each.fits.items())


def test_costs_are_shares_of_the_mean_and_bytes_of_the_file(quantized: tuple[fx.GraphModule, list[BitWidthOptions]]) -> None:
    _, (given, hidden, first, _) = quantized
    assert given.costs(1000) == {}
    assert hidden.costs(1000) == {"activation_bits": [192 * 4 / 1000, 192 * 8 / 1000]}
    # Five codes of 3 bits in 16 bits.
    assert first.costs(1000) == {
        "weight_bits": [128 * 3 / 1000, 128 * 4 / 1000],
        "file_mb": [pytest.approx(128 * 16 / 5 / 8e6), pytest.approx(128 * 4 / 8e6)],
    }


@pytest.mark.parametrize(("which", "bits"), [(1, 8), (3, 3)], ids=["an activation", "a weight"])
def test_the_choice_is_in_the_graph_and_in_the_plan(
    quantized: tuple[fx.GraphModule, list[BitWidthOptions]], which: int, bits: int
) -> None:
    graph, options = quantized
    options[which].choose(graph, bits)
    ((node, _),) = options[which].readers
    plan, layer = get_plan(node), graph.get_submodule(str(node.target))
    assert isinstance(layer, QuantizedLayer)
    if which == 1:
        quantizer = graph.get_submodule(options[which].target)
        assert isinstance(quantizer, Quantizer)
        assert (quantizer.bits, plan.operands[0].spec.bits, plan.weight.bits) == (8, 8, 4)
    else:
        assert layer.quantizer is not None
        assert (layer.quantizer.bits, plan.weight.bits, plan.operands[0].spec.bits) == (3, 3, 4)


def test_what_is_decided_already_is_left_alone(quantized: tuple[fx.GraphModule, list[BitWidthOptions]]) -> None:
    graph, options = quantized
    options[0].choose(graph, 2)
    assert graph.get_submodule(options[0].target).bits == 8


def test_the_rest_of_a_file_is_all_but_the_codes_of_weights(quantized: tuple[fx.GraphModule, list[BitWidthOptions]]) -> None:
    graph, _ = quantized
    layers = [module for module in graph.modules() if isinstance(module, QuantizedLayer)]
    weights: list[Tensor | None] = [layer.weight for layer in layers]
    rest = [t for t in (*graph.parameters(), *graph.buffers()) if not any(t is weight for weight in weights)]
    expected = sum(tensor.nbytes for tensor in rest) + 500 * len(graph.graph.nodes)
    assert megabytes_beside_weights(graph) == pytest.approx(expected / 1e6)
    assert len(rest) < len([*graph.parameters(), *graph.buffers()])
