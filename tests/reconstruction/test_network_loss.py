"""The network's error while a block is learned, against the model with that block's output replaced."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.passes.analysis.reference import float_reference
from qpass.reconstruction.network_loss import NetworkLoss
from qpass.reconstruction.samples import SampleStore, advance
from qpass.reconstruction.segments import Segment, cut_after_segments, cut_into_segments
from qpass.runtime.distributed import ALONE
from qpass.runtime.storage import Storage
from tests.models import small_vit

CPU = torch.device("cpu")
SAMPLES = 6


class Twice(nn.Module):
    """A ViT whose second output is that of its first block, and whose third is -inf in places."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = small_vit()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(x)))
        first = self.vit.blocks[0](tokens)
        logits = self.vit.forward_head(self.vit.norm(self.vit.blocks[1](first)))
        return logits, first, logits.masked_fill(torch.arange(10) < 3, -torch.inf)


def images() -> Tensor:
    return torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def float_network(model: nn.Module) -> fx.GraphModule:
    graph = trace(model, (images(),))
    for step in pipeline(QuantConfig.from_any("w8a8"), [ModelInputs((images(),), {})])[:-1]:
        step(graph)
    return float_reference(graph)


def values(graph: fx.GraphModule, segments: Sequence[Segment], rests: Sequence[Segment]) -> SampleStore:
    store = SampleStore(SAMPLES, Storage())
    (placeholder,) = (node.name for node in graph.graph.nodes if node.op == "placeholder")
    store.put(placeholder, 0, SAMPLES, images())
    for segment in segments:
        advance(store, segment, 4, CPU)
    advance(store, rests[0], 4, CPU)
    return store


@pytest.mark.parametrize("build", [small_vit, Twice])
def test_what_follows_each_segment_ends_at_the_outputs_of_the_network(build: type[nn.Module]) -> None:
    model = build()
    graph = float_network(model)
    segments, rests = cut_into_segments(graph), cut_after_segments(graph)
    store = values(graph, segments, rests)
    with torch.no_grad():
        outputs = model(images())
    expected = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(rests) == len(segments) == 3
    for rest in rests:
        found = rest.graph_module(*(store.get(name, slice(0, SAMPLES), CPU) for name in rest.inputs))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [1, 2])
def test_errors_are_those_of_the_model_with_the_blocks_output_replaced(block: int) -> None:
    model = Twice()
    graph = float_network(model)
    segments, rests = cut_into_segments(graph), cut_after_segments(graph)
    loss = NetworkLoss(rests[block], segments[block], values(graph, segments, rests), 0.5, CPU)
    chosen = torch.tensor([4, 1, 2])
    output = torch.randn(3, 17, 48, generator=torch.Generator().manual_seed(3)).requires_grad_()

    errors = loss.errors([output], chosen)

    with torch.no_grad():
        wanted = model(images()[chosen])
    changed = copy.deepcopy(model)
    changed.vit.blocks[block - 1].register_forward_hook(lambda *_: output)
    found = changed(images()[chosen])
    differences = [(one - other)[other.isfinite()] for one, other in zip(found, wanted, strict=True)]
    counts = [value.numel() for value in wanted]
    expected = [(d.square().sum() / n) for d, n in zip(differences, counts, strict=True)]
    if block == 2:
        del expected[1]  # finished before the block
    torch.testing.assert_close(errors, torch.stack(expected), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(errors.sum(), output)
    (other,) = torch.autograd.grad(sum(expected), output)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_each_error_counts_by_its_first_value() -> None:
    graph = float_network(small_vit())
    segments, rests = cut_into_segments(graph), cut_after_segments(graph)
    loss = NetworkLoss(rests[1], segments[1], SampleStore(SAMPLES, Storage()), 0.5, CPU)
    first = loss.weigh(torch.tensor(4.0), torch.tensor([8.0, 0.5]), ALONE)
    assert first.item() == pytest.approx(1 + 0.5)
    later = loss.weigh(torch.tensor(2.0), torch.tensor([4.0, 1.0]), ALONE)
    assert later.item() == pytest.approx(0.5 + 0.5 * (0.5 + 2) / 2)


def test_learning_with_the_networks_error_brings_the_outputs_nearer() -> None:
    model = small_vit()
    x = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    learning = {"weights": "full", "steps": 60, "batch_size": 16, "learning_rate": 1e-3, "curriculum": False, "loss": "squared"}

    def error(weight: float) -> float:
        config = {"preset": "w3a3", "polish": "quick", "reconstruction": {**learning, "output_weight": weight}}
        graph = qpass.quantize_graph(model, [x], config, progress=False)
        with torch.no_grad():
            return (graph(x) - model(x)).square().mean().item()

    assert error(2.0) < 0.95 * error(0.0)
