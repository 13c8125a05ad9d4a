"""I&S-ViT's three stages on a small transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import ConfigError
from qpass.graph.facts import facts_of
from qpass.nn import QuantizedLayer
from qpass.quantizers import Uniform
from qpass.reconstruction.block import LearnableBlock
from qpass.reconstruction.record import BlockRecord
from tests.learning import UNCOMPENSATED, check_report_compares_with, killed_at

SHORT = {"steps": 30, "batch_size": 8, "precision": "float32", "learning_rate": 1e-3}


def learn(
    vit: nn.Module, images: Tensor, folder: Path | None = None, preset: str = "ias-vit-w3a3", **changes: object
) -> fx.GraphModule:
    config = {"preset": preset, "reconstruction": {**SHORT, **changes}}
    return qpass.quantize_graph(vit, [images], config, checkpoint_dir=folder, progress=False)


def records(graph: fx.GraphModule, stage: str) -> list[BlockRecord]:
    return [row for row in facts_of(graph).report.reconstruction if row.stage == stage]


@pytest.fixture(scope="module")
def many_images() -> Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def learned(vit: nn.Module, many_images: Tensor) -> fx.GraphModule:
    return learn(vit, many_images)


@pytest.mark.parametrize("stage", ["activations", "weights"])
def test_every_block_is_learned_in_both_stages(learned: fx.GraphModule, stage: str) -> None:
    rows = records(learned, stage)
    assert [row.path for row in rows] == ["before the blocks", "blocks.0", "blocks.1", "after the blocks"]
    assert all(row.error_after < 0.97 * row.error_before for row in rows[1:])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ias-vit-w3a3", "dopq-vit-w3a3"])
def test_what_is_left_is_a_plain_integer_network(vit: nn.Module, many_images: Tensor, preset: str, tmp_path: Path) -> None:
    graph = learn(vit, many_images, preset=preset, steps=2)
    assert all(layer.frozen for layer in graph.modules() if isinstance(layer, QuantizedLayer))
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, many_images[:8]).passed
    again = qpass.load(qpass.save(graph, tmp_path / "model.qpass"))
    assert torch.equal(again(many_images), graph(many_images))
    assert facts_of(again).report.reconstruction == facts_of(graph).report.reconstruction


def test_weights_are_float_and_scales_channel_wise_only_in_the_first_stage(
    vit: nn.Module, many_images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def learn_block(block: LearnableBlock, *_: object) -> BlockRecord:
        modules = list(block._modules.values())
        rounded = {m.quantizer.enabled for m in modules if isinstance(m, QuantizedLayer) and m.quantizer is not None}
        seen.append((rounded, any(isinstance(m, Uniform) and m.axis is not None for m in modules)))
        return BlockRecord("", 1.0, 1.0, 0)

    monkeypatch.setattr(LearnableBlock, "learn", learn_block)
    learn(vit, many_images)
    assert seen == [({False}, False), *3 * [({False}, True)], *4 * [({True}, False)]]  # no LayerNorm is before the blocks


def test_the_first_stage_reads_the_float_network_and_the_second_the_quantized_one(vit: nn.Module, many_images: Tensor) -> None:
    """What the first block learned changes what the second one starts from, or does not."""
    little, much = (learn(vit, many_images, learning_rate=rate) for rate in (1e-9, 1e-3))
    first = [records(graph, "activations")[2].error_before for graph in (little, much)]
    second = [records(graph, "weights")[2].error_before for graph in (little, much)]
    assert first[0] == first[1]
    assert second[0] != second[1]


def test_the_report_compares_with_the_float_model_and_not_with_learned_weights(
    vit: nn.Module, many_images: Tensor, learned: fx.GraphModule
) -> None:
    check_report_compares_with(vit, learned, many_images[:8])


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("step", [40, 160], ids=["first stage", "second stage"])
def test_a_killed_run_goes_on_and_gives_the_same_bits(
    vit: nn.Module,
    many_images: Tensor,
    learned: fx.GraphModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    with killed_at(step, monkeypatch):
        learn(vit, many_images, tmp_path)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == step // 30
    assert torch.equal(learn(vit, many_images, tmp_path)(many_images), learned(many_images))


def test_low_rank_weights_are_refused(vit: nn.Module, many_images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"weights='low-rank' with order='three-stage'"):
        learn(vit, many_images, weights="low-rank")


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("preset", ["w4a4", "repq-vit-w4a4"])
def test_without_learning_the_target_of_the_fold_cancels(vit: nn.Module, many_images: Tensor, preset: str) -> None:
    """Another layer-wise scale multiplies the folded weights by one number, which their own scales take up."""
    config = {"preset": preset, **UNCOMPENSATED}
    mean, median = (
        qpass.quantize_graph(vit, [many_images], {**config, "fold_layer_norm": target}, progress=False)
        for target in ("mean", "median")
    )
    scales = [
        {n: t for n, t in graph.state_dict().items() if n.startswith("layer_norm") and n.endswith("scale")}
        for graph in (mean, median)
    ]
    assert any(not torch.equal(scales[0][name], scales[1][name]) for name in scales[0]), "the targets differ"
    codes = [{n: t for n, t in graph.state_dict().items() if n.endswith("codes") and t is not None} for graph in (mean, median)]
    for name, tensor in codes[0].items():
        assert (tensor == codes[1][name]).float().mean() > 0.999
    error = (mean(many_images) - median(many_images)).square().sum() / mean(many_images).square().sum()
    assert error < 1e-3
