from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.passes import Annotate, Calibrate, Canonicalize
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.statistics import Statistics
from tests.learning import UNCOMPENSATED


def test_it_computes_the_model_with_the_nodes_of_the_quantized_graph(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    for step in pipeline(QuantConfig.from_any({"preset": "w4a4", **UNCOMPENSATED}), [ModelInputs((images,), {})])[:-1]:
        step(graph)
    reference = float_reference(graph)
    assert [node.name for node in reference.graph.nodes] == [node.name for node in graph.graph.nodes]
    torch.testing.assert_close(reference(images), vit(images), rtol=1e-4, atol=1e-4)
    assert (graph(images) - vit(images)).abs().max() > 0.05, "the graph itself stays quantized"


def test_statistics_end_with_the_last_fit(vit: nn.Module, images: Tensor) -> None:
    graph, seen = trace(vit, (images,)), list[Statistics]()
    for step in pipeline(QuantConfig.from_any({"preset": "w4a4", **UNCOMPENSATED}), [ModelInputs((images,), {})])[:-1]:
        step(graph)
        seen += [step.statistics] if isinstance(step, Calibrate) else []
        if seen:
            held = bool(seen[0].tensors and seen[0].channels and seen[0].products)
            assert held == (facts_of(graph).stage in ("calibrated", "quantized")), type(step).__name__
    assert seen
    assert seen[0] == Statistics()


def test_a_copy_of_a_graph_has_no_statistics_in_it(vit: nn.Module, images: Tensor) -> None:
    graph, statistics = trace(vit, (images,)), Statistics()
    steps = (Canonicalize(), Annotate(QuantConfig()), Calibrate([ModelInputs((images,), {})], statistics, per_channel=True))
    for step in steps:
        step(graph)
    copied = dict[int, object]()
    copy.deepcopy(graph, copied)
    assert statistics.tensors
    assert not {id(observer) for observer in statistics.tensors.values()} & copied.keys()
