from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.passes.analysis.blocks import find_blocks
from qpass.reconstruction.samples import SampleStore, advance
from qpass.reconstruction.segments import cut_into_segments
from qpass.runtime.storage import Storage
from qpass.zoo.point_transformer import PointTransformer
from tests.models import small_vit


def small_swin() -> nn.Module:
    torch.manual_seed(0)
    return SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=5
    ).eval()


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("build", "blocks"),
    [
        (small_vit, ["blocks.0", "blocks.1"]),
        (small_swin, ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0", "layers.1.blocks.1"]),
    ],
)
def test_segments_run_one_after_the_other_give_what_the_graph_gives(build: type, blocks: list[str]) -> None:
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = trace(build(), (x,))
    for step in pipeline(QuantConfig.from_any("w8a8"), [ModelInputs((x,), {})])[:-1]:
        step(graph)
    segments = cut_into_segments(graph)
    assert [segment.path for segment in segments] == ["", *blocks]

    store = SampleStore(6, Storage())
    (placeholder,) = (node.name for node in graph.graph.nodes if node.op == "placeholder")
    store.put(placeholder, 0, 6, x)
    expected = values_of(graph, x)
    ends = find_blocks(graph)
    for index, segment in enumerate(segments):
        advance(store, segment, 4, torch.device("cpu"))  # batches of 4 and 2, another size than the graph was traced with
        if segment.path:
            assert segment.outputs[-1] == ends[segment.path].name
            actual = store.get(segment.outputs[-1], slice(0, 6), torch.device("cpu"))
            torch.testing.assert_close(actual, expected[segment.outputs[-1]], rtol=1e-5, atol=1e-5)
        kept = {name for later in segments[index + 1 :] for name in later.inputs}
        store.keep_only(kept)


def test_a_segment_shares_its_modules_with_the_graph() -> None:
    x = torch.randn(2, 3, 32, 32)
    graph = trace(small_vit(), (x,))
    for step in pipeline(QuantConfig.from_any("w8a8"), [ModelInputs((x,), {})])[:-1]:
        step(graph)
    for segment in cut_into_segments(graph):
        for name, module in segment.graph_module.named_children():
            assert module is graph.get_submodule(name)


def values_of(graph: torch.fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    run = torch.fx.Interpreter(graph, garbage_collect_values=False)
    with torch.no_grad():
        run.run(x)
    return {node.name: value for node, value in run.env.items()}


def test_what_no_layer_has_a_part_in_comes_first() -> None:
    """Sampling and neighbours of a point cloud are computed once, and not in every step of learning."""
    torch.manual_seed(0)
    clouds = 2 * torch.rand(4, 64, 6) - 1
    graph = trace(PointTransformer(64, 5, stages=2, neighbours=8).eval(), (clouds,))
    for step in pipeline(QuantConfig.from_any("w8a8"), [ModelInputs((clouds,), {})])[:-1]:
        step(graph)
    first, *blocks = cut_into_segments(graph)
    assert [segment.path for segment in blocks] == ["transformers.0", "transformers.1"]
    sampling = {torch.ops.aten.argmax.default, torch.ops.aten.topk.default}
    assert sampling <= {node.target for node in first.graph_module.graph.nodes}
    for segment in blocks:
        assert not sampling & {node.target for node in segment.graph_module.graph.nodes}
    values = dict(values_of(graph, clouds))
    (placeholder,) = (node.name for node in graph.graph.nodes if node.op == "placeholder")
    values[placeholder] = clouds
    for segment in (first, *blocks):
        found = segment.graph_module(*(values[name] for name in segment.inputs))
        for name, value in zip(segment.outputs, found, strict=True):
            torch.testing.assert_close(value, values[name])
