"""Softmax outputs that go into no matmul: quantized once each by published methods, and verified in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.cait import Cait
from timm.models.convit import ConVit
from timm.models.mobilevit import LinearTransformerBlock
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig
from qpass.graph.edit import called_module
from qpass.graph.facts import facts_of
from qpass.passes.annotate import is_softmax, source_of
from qpass.quantizers import QUANTIZERS, LookUp, Quantizer
from tests.contracts.judge import judge


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
    for name, parameter in model.named_parameters():
        if "gamma" in name:  # CaiT's blocks begin at nearly nothing
            parameter.data.fill_(1)
    return model


def talking_heads() -> nn.Module:
    """A Linear over the heads reads the Softmax."""
    return Cait(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=5)


def gated() -> nn.Module:
    """Two Softmaxes are weighed and added."""
    return ConVit(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5, local_up_to_layer=1)


class Separable(nn.Module):
    """The Softmax of one channel weighs the keys, which are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.blocks = nn.Sequential(LinearTransformerBlock(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Neighbours(nn.Module):
    """As in point clouds: each channel of each neighbour has its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        weights, values = self.both(x).chunk(2, -1)
        return (weights.mul(3).softmax(2) * values).sum(2)


class VectorAttention(nn.Module):
    """Its classes are a Softmax too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.blocks = nn.ModuleList([Neighbours()])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2).unflatten(1, (4, 4))
        return self.head(self.blocks[0](tokens).mean(1)).softmax(-1)


NETWORKS = {"talking heads": talking_heads, "gated": gated, "separable": Separable, "vector attention": VectorAttention}
RECIPES = {
    "repq-vit-w6a6": "log-sqrt2",
    "aiqvit-w6a6": "dynamic-focus",
    "ias-vit-w6a6": "shift-log2",
    "dopq-vit-w6a6": "tan",
}


def images(seed: int) -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def quantizers_of_softmaxes(graph: fx.GraphModule) -> list[list[Quantizer]]:
    """Returns the quantizers that read each Softmax of a graph, through movements."""
    softmaxes = {node: [] for node in graph.graph.nodes if is_softmax(node)}
    for node in graph.graph.nodes:
        module = called_module(graph, node)
        if isinstance(module, Quantizer) and (source := source_of(node.args[0])) in softmaxes:
            softmaxes[source].append(module)
    return list(softmaxes.values())


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        ("vector attention", "aiqvit-w6a6"),
        ("gated", "ias-vit-w6a6"),
        ("talking heads", "dopq-vit-w6a6"),
        ("separable", "repq-vit-w6a6"),
        ("talking heads", "aiqvit-w6a6"),
        ("vector attention", "dopq-vit-w6a6"),
    ],
)
def test_each_softmax_has_the_methods_quantizer_and_the_file_is_verified(network: str, recipe: str, tmp_path: Path) -> None:
    model = seeded(NETWORKS[network])
    config = {"preset": recipe, "reconstruction": None}
    graph = judge(model, [images(1)], [images(2)], config=config, decibels=12, folder=tmp_path)
    found = quantizers_of_softmaxes(graph)
    if network == "vector attention":
        assert found.pop() == []  # an output of the network
    kind = QUANTIZERS[RECIPES[recipe]]
    assert found
    for quantizers in found:
        (quantizer,) = quantizers
        assert isinstance(quantizer, kind | LookUp)
        assert quantizer.bits == 6


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("network", ["vector attention", "gated"])
def test_closed_form_recipes_leave_them_float_unless_asked(network: str) -> None:
    model = seeded(NETWORKS[network])
    plain = qpass.quantize_graph(model, [images(1)], "w8a8", progress=False)
    asked = qpass.quantize_graph(model, [images(1)], {"preset": "w8a8", "every_softmax": True}, progress=False)
    assert sum(map(len, quantizers_of_softmaxes(plain))) < sum(map(len, quantizers_of_softmaxes(asked)))


@pytest.mark.slow
def test_a_rule_leaves_one_in_float() -> None:
    config = QuantConfig.from_any({"preset": "w8a8", "every_softmax": True}).with_rules(
        {"blocks.0.attn": {"post_softmax": None}}
    )
    graph = qpass.quantize_graph(seeded(gated), [images(1)], config, progress=False)
    assert [len(found) for found in quantizers_of_softmaxes(graph)][:2] == [0, 0]
    reasons = {
        reason for kind, path, reason in facts_of(graph).report.stayed_float if (kind, path) == ("softmax", "blocks.0.attn")
    }
    assert reasons == {"a rule of the config leaves it in float"}


@pytest.mark.slow
def test_learning_moves_b1_of_a_softmax_that_weighs_channels() -> None:
    learning = {"ranks": [4], "steps": 20, "batch_size": 6, "focus_learning_rate": 1e-2}
    config = {"preset": "aiqvit-w4a4", "reconstruction": learning}

    def interval(**changes: object) -> tuple[float, float]:
        graph = qpass.quantize_graph(seeded(VectorAttention), [images(1)], {**config, **changes}, progress=False)
        (focus,) = quantizers_of_softmaxes(graph)[0]
        return focus.b1.item(), focus.b2.item()

    assert interval() != interval(reconstruction=None)
