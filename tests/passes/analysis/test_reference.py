from __future__ import annotations

import torch
from torch import Tensor, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import info
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.statistics import STATISTICS
from tests.learning import UNCOMPENSATED


def test_it_computes_the_model_with_the_nodes_of_the_quantized_graph(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    for step in pipeline(QuantConfig.from_any({"preset": "w4a4", **UNCOMPENSATED}), [ModelInputs((images,), {})])[:-1]:
        step(graph)
    reference = float_reference(graph)
    assert [node.name for node in reference.graph.nodes] == [node.name for node in graph.graph.nodes]
    torch.testing.assert_close(reference(images), vit(images), rtol=1e-4, atol=1e-4)
    assert (graph(images) - vit(images)).abs().max() > 0.05, "the graph itself stays quantized"


def test_statistics_are_not_copied_and_end_with_the_last_fit(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    for step in pipeline(QuantConfig.from_any({"preset": "w4a4", **UNCOMPENSATED}), [ModelInputs((images,), {})])[:-1]:
        step(graph)
        found = [key for key in STATISTICS if info(graph).get(key)]
        assert bool(found) == (info(graph)["stage"] in ("calibrated", "quantized")), type(step).__name__
        if found:
            assert not set(STATISTICS) & info(float_reference(graph)).keys()
            assert found == [key for key in STATISTICS if info(graph).get(key)], "the graph's own stay"
