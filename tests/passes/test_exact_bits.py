"""``wXaY`` has exactly X and Y bits in the graph too; ``mixed-wXaZ`` keeps its mean and its report says what is wider."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.graph.facts import update_facts
from qpass.nn import QuantizedLayer
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import LayerPlan
from qpass.quantizers import Quantizer
from tests.models import MaskedAttention, small_vit


class ConvStem(nn.Module):
    """Convolutions before a transformer, grouped and 1x1 ones among them, and cross-attention of learned queries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 2, 2), nn.GELU(), nn.Conv2d(32, 32, 2, 2, groups=2), nn.Conv2d(32, 16, 1))
        self.norm, self.kv = nn.LayerNorm(16), nn.Linear(16, 32)
        self.queries, self.head = nn.Parameter(torch.randn(1, 4, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(self.norm(self.stem(x).flatten(2).transpose(1, 2))).chunk(2, -1)
        q = self.queries.expand(len(x), -1, -1)
        found: Tensor = self.head((q @ k.transpose(1, 2) * 0.25).softmax(-1) @ v)
        return found


#: Networks by name: what makes one, the shape of a row, and how many layers read it.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "vit": (small_vit, (3, 32, 32), 1),
    "masked attention": (MaskedAttention, (5, 16), 3),
    "convolutions and cross-attention": (ConvStem, (3, 16, 16), 1),
    "linears": (lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), (8,), 1),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    make, shape, _ = NETWORKS[name]
    return make().eval(), torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_planned_tensor_has_the_bits_of_the_name(name: str) -> None:
    """At many bit widths; only the network's input has 8 bits in all of them."""
    model, x = network(name)
    graph = trace(model, (x,))
    Canonicalize()(graph)
    for weight, activation in [*((bits, bits) for bits in range(2, 9)), (4, 8), (8, 3)]:
        Annotate(QuantConfig.from_any({"preset": f"w{weight}a{activation}", "budget": None}))(graph)
        plans = [plan for node in graph.graph.nodes if isinstance(plan := get_plan(node), LayerPlan)]
        assert {plan.weight.bits for plan in plans if plan.weight is not None} == {weight}
        bits = Counter(operand.spec.bits for plan in plans for operand in plan.operands if operand.spec is not None)
        inputs = NETWORKS[name][2]
        assert bits.total() > inputs
        assert bits == Counter({8: inputs}) + Counter({activation: bits.total() - inputs})
        update_facts(graph, stage="canonical")  # for the next


@pytest.mark.slow(after=4)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("preset", ["w4a4", "w3a3", "w6a6", "w4a8"])
def test_every_module_of_the_graph_has_the_bits_of_the_name(name: str, preset: str) -> None:
    model, x = network(name)
    graph = qpass.quantize_graph(model, [x], {"preset": preset, "budget": None}, progress=False)
    weight, activation = int(preset[1]), int(preset[3])
    layers = [module for module in graph.modules() if isinstance(module, QuantizedLayer)]
    assert {layer.quantizer.bits for layer in layers if layer.quantizer is not None} == {weight}
    inside = {id(layer.quantizer) for layer in layers}
    report = qpass.quantization_report(graph)
    outputs = {row.name: row.bits for row in report.tensors if row.kind == "output"}  # not what a product reads
    assert set(outputs.values()) <= {8}
    assert (f"outputs of {len(outputs)} convolutions: 8 bits" in str(report)) == bool(outputs)
    quantizers = [
        module
        for name, module in graph.named_modules()
        if isinstance(module, Quantizer) and id(module) not in inside and name not in outputs
    ]
    assert sorted(quantizer.bits for quantizer in quantizers) == [*[activation] * (len(quantizers) - 1), 8]
    widths = {of.kind: of for of in report.bits}
    assert (widths["weight"].mean, widths["activation"].mean) == (weight, activation)
    assert not widths["weight"].wider
    assert not widths["activation"].wider
    assert widths["activation"].network_inputs == (8,)
    assert str(widths["activation"]) == f"activations: {activation} bits" + " (network input 8)" * (activation < 8)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mixed-w4a5", "mixed-w3a4", "mixed-w6a7"])
def test_a_mixed_recipe_keeps_its_mean_and_lists_what_is_wider(vit: nn.Module, images: Tensor, preset: str) -> None:
    graph = qpass.quantize_graph(vit, [images], preset, progress=False)
    report, mean = qpass.quantization_report(graph), int(preset[-1])
    weights, activations = report.bits[1], report.bits[0]
    assert (weights.mean, weights.wider) == (int(preset[-3]), ())
    assert mean - 1 < activations.mean <= mean
    assert {row.bits for row in activations.wider} == {8}
    assert {row.bits for row in activations.rows} == {mean - 1, 8}
    # by hand, from shapes: 17 tokens, 48 channels, 3 heads of 16, a hidden layer of 96
    tokens, width, heads, hidden = 17, 48, 3, 96
    sizes = {"qkv": 3 * width * width, "proj": width * width, "fc1": width * hidden, "fc2": hidden * width}
    bits: list[tuple[int, int]] = []
    for layer in report.layers:
        kind = layer.path.rpartition(".")[2]
        if kind in sizes and layer.kind == "linear":
            bits.append((layer.input_bits[0] or 0, len(images) * tokens * sizes[kind]))
        elif layer.kind == "matmul":
            bits += [(width_of or 0, len(images) * heads * tokens * tokens * 16) for width_of in layer.input_bits]
        elif layer.path == "head":
            bits.append((layer.input_bits[0] or 0, len(images) * width * 10))
    assert activations.mean == pytest.approx(sum(b * size for b, size in bits) / sum(size for _, size in bits))
    text, page = str(report), report.to_html()
    count = f"{len(activations.wider)} of {len(activations.rows)} have 8 bits"
    assert f"activations: {activations.mean:.2f} bits on average, {count} (network input 8)" in text
    assert f"{count} (network input 8)" in page
    assert f"weights: {weights.mean:.0f} bits" in text
    for row in activations.wider:
        assert f"  8 bits: {row.path or '(model)'}, {row.name}" in text
        assert f'<td>{row.name}</td><td class="n">8</td>' in page
