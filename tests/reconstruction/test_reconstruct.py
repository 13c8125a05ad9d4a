"""The whole learning on a small transformer: errors fall, bits repeat, kills cost nothing but the block they hit."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import ConfigError, UnsupportedError
from qpass.graph.edit import fetch
from qpass.graph.facts import facts_of
from qpass.quantizers import DynamicFocus
from qpass.reconstruction.record import BlockRecord
from tests.learning import check_report_compares_with, killed_at

QUICK = {"ranks": [2, 6], "search_steps": 8, "steps": 40, "batch_size": 8, "precision": "float32",
         "learning_rate": 5e-3, "curriculum_interval": 10}  # fmt: skip


def learn(vit: nn.Module, images: Tensor, folder: Path | None = None, seed: int = 0, **changes: object) -> fx.GraphModule:
    config = {"preset": "aiqvit-w3a3", "reconstruction": {**QUICK, **changes}}
    return qpass.quantize_graph(vit, [images], config, seed=seed, checkpoint_dir=folder, progress=False)


def records(graph: fx.GraphModule) -> tuple[BlockRecord, ...]:
    found = facts_of(graph).report.reconstruction
    assert isinstance(found, tuple)
    return found


@pytest.fixture(scope="module")
def many_images() -> Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def learned(vit: nn.Module, many_images: Tensor) -> fx.GraphModule:
    return learn(vit, many_images)


def test_the_error_of_every_block_falls_and_ranks_are_chosen(learned: fx.GraphModule) -> None:
    rows = records(learned)
    assert [row.path for row in rows] == ["blocks.0", "blocks.1"]
    for row in rows:
        assert row.error_after < 0.95 * row.error_before
        assert set(row.ranks) == {f"{row.path}.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
        assert set(row.ranks.values()) <= {2, 6}
        assert len(row.intervals) == 1
        assert set(row.searches) == set(row.ranks)
        for layer, search in row.searches.items():
            assert search.candidates[search.shares.index(max(search.shares))] == row.ranks[layer]
            assert sum(search.shares) == pytest.approx(1, abs=1e-5)
            last = -sum(share * math.log(share) for share in search.shares) / math.log(2)
            assert search.entropies[-1] == pytest.approx(last, abs=1e-4)
            assert len(search.entropies) == 8
        assert row.full_ranks == ()


def test_a_rank_that_is_that_of_a_whole_matrix_is_called_full(vit: nn.Module, many_images: Tensor) -> None:
    for row in records(learn(vit, many_images, ranks=[100], steps=1)):
        assert set(row.full_ranks) == set(row.ranks)
        assert set(row.ranks.values()) == {48}


@pytest.mark.slow
def test_b1_starts_where_the_blocks_error_is_lowest_and_then_moves(vit: nn.Module, many_images: Tensor) -> None:
    """Started at .3 alone, b1 stays far above the fit's, unless the fit is better; a rate of 0 leaves the fit."""

    def intervals(**changes: object) -> list[tuple[float, float, str]]:
        rows = records(learn(vit, many_images, ranks=[2], steps=8, **changes))
        return [interval for row in rows for interval in row.intervals.values()]

    still = intervals(focus_learning_rate=0)
    moved = intervals(focus_learning_rate=1e-3)
    assert all(b1 != other for (b1, _, _), (other, _, _) in zip(moved, still, strict=True))
    assert {reading for _, _, reading in moved} <= {"affine", "zero"}
    far = intervals(focus_learning_rate=1e-9, focus_starts=[0.9])  # no better than the fit
    assert [b1 for b1, _, _ in far] == pytest.approx([b1 for b1, _, _ in still], abs=1e-6)


def test_a_better_start_than_the_fit_is_taken(vit: nn.Module, many_images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that is far off is left for one of the given starts, where the block's error is lower."""
    fit = DynamicFocus.fit
    monkeypatch.setattr(
        DynamicFocus, "fit", lambda self, *given, **options: fit(self, *given, **options).set_interval(0.25, 0.3)
    )
    learning = {**QUICK, "weights": "fixed", "steps": 1, "focus_learning_rate": 1e-9, "focus_starts": [0.01, 0.02]}
    config = {"preset": "aiqvit-w3a3", "post_softmax": {"code_zero": "affine"}, "reconstruction": learning}
    for row in records(qpass.quantize_graph(vit, [many_images], config, progress=False)):
        ((b1, _, _),) = row.intervals.values()
        assert b1 == pytest.approx(0.01, abs=1e-4) or b1 == pytest.approx(0.02, abs=1e-4)
        assert row.error_after < row.error_before


@pytest.mark.parametrize("order", ["fold-first", "paper"])
def test_the_report_compares_with_the_float_model_and_not_with_learned_weights(
    vit: nn.Module, many_images: Tensor, order: str
) -> None:
    graph = learn(vit, many_images, order=order)
    check_report_compares_with(vit, graph, many_images[:8])


def test_what_is_left_is_a_plain_integer_network(learned: fx.GraphModule, many_images: Tensor, tmp_path: Path) -> None:
    kinds = {type(module).__name__ for module in learned.modules()}
    assert "CompensatedLinear" not in kinds
    assert not any(parameter.requires_grad for parameter in learned.parameters())
    path = qpass.export_onnx(learned, tmp_path / "model.onnx")
    assert qpass.verify_onnx(learned, path, many_images[:8]).passed
    again = qpass.load(qpass.save(learned, tmp_path / "model.qpass"))
    assert torch.equal(again(many_images), learned(many_images))
    assert records(again) == records(learned)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    vit: nn.Module, many_images: Tensor, learned: fx.GraphModule
) -> None:
    assert torch.equal(learn(vit, many_images)(many_images), learned(many_images))
    assert not torch.equal(learn(vit, many_images, seed=1)(many_images), learned(many_images))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("step", [20, 48, 70], ids=["first block", "between blocks", "second block"])
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
    finished = len(list(tmp_path.glob("*.safetensors")))
    assert finished == (step > 48)
    resumed = learn(vit, many_images, tmp_path)
    assert torch.equal(resumed(many_images), learned(many_images))
    for name, tensor in learned.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert records(resumed) == records(learned)


def test_blocks_of_another_run_are_refused(vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    learn(vit, many_images, tmp_path, steps=2)
    changed = copy.deepcopy(vit)
    changed.head.bias.data[0] += 1e-3
    refused = {
        r"config has reconstruction\.steps = 2, not 3;": lambda: learn(vit, many_images, tmp_path, steps=3),
        "calibration data differs;": lambda: learn(vit, many_images + 1e-3, tmp_path, steps=2),
        "model differs and seed is 0, not 1;": lambda: learn(changed, many_images, tmp_path, steps=2, seed=1),
    }
    for message, run in refused.items():
        with pytest.raises(ConfigError, match=f"holds blocks of another run, whose {message}"):
            run()


@pytest.mark.slow
def test_a_block_that_another_network_made_is_refused(vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    """Copied from another folder, which the record beside it does not show."""
    for name, steps in (("a", 2), ("b", 3)):
        learn(vit, many_images, tmp_path / name, steps=steps)
    (tmp_path / "a" / "blocks.0.safetensors").write_bytes((tmp_path / "b" / "blocks.0.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="the same network before its blocks were learned"):
        learn(vit, many_images, tmp_path / "a", steps=2)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_record_is_refused(content: str, vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=r"checkpoint_dir .*run\.json is"):
        learn(vit, many_images, tmp_path, steps=2)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "full", "learning_rate": 1e-3},
        {"ranks": [6], "inputs": "float"},
        {"ranks": [6], "scale_learning_rate": 1e-2},
        {"ranks": [6], "norm_learning_rate": 1e-2},
        {"ranks": [6], "order": "paper"},
        {"ranks": [6], "curriculum": False, "precision": "bfloat16"},
    ],
    ids=["full weights", "float inputs", "learned scales", "learned norms", "paper order", "bfloat16"],
)
def test_every_way_of_learning_lowers_the_error(vit: nn.Module, many_images: Tensor, changes: dict[str, object]) -> None:
    for row in records(learn(vit, many_images, **changes)):
        assert row.error_after < 0.98 * row.error_before


def test_with_weights_fixed_only_the_intervals_move(vit: nn.Module, many_images: Tensor) -> None:
    still = learn(vit, many_images, weights="fixed", focus_learning_rate=0)
    moved = learn(vit, many_images, weights="fixed", focus_learning_rate=1e-3)
    assert all(row.error_after == row.error_before and row.steps == 0 for row in records(still))
    different = {name for name, tensor in moved.state_dict().items() if not torch.equal(tensor, still.state_dict()[name])}
    focus = {name for name, module in moved.named_modules() if isinstance(module, DynamicFocus)}
    assert different
    assert {name.rpartition(".")[0] for name in different} <= focus


@pytest.mark.slow
def test_learned_scales_lower_the_error_further(vit: nn.Module, many_images: Tensor) -> None:
    still, moved = (learn(vit, many_images, ranks=[6], steps=60, scale_learning_rate=rate) for rate in (0.0, 1e-2))
    scales = {
        name for name in still.state_dict() if name.endswith("_quantizer.scale") and name.startswith(("layer_norm", "gelu"))
    }
    inside = {name for name in scales if not torch.equal(still.state_dict()[name], moved.state_dict()[name])}
    assert len(inside) >= 4, "the LayerNorms and GELUs of two blocks"
    assert all(b.error_after < 0.97 * a.error_after for a, b in zip(records(still), records(moved), strict=True))


@pytest.mark.slow
def test_learned_norms_lower_the_error_and_survive_a_kill(
    vit: nn.Module, many_images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, object] = {"steps": 60, "weights": "fixed", "focus_learning_rate": 0}
    before = copy.deepcopy(vit.state_dict())
    still, moved = (learn(vit, many_images, norm_learning_rate=rate, **changes) for rate in (0.0, 1e-2))
    norms = {node.target for node in moved.graph.nodes if node.op == "get_attr" and "layer_norm" in str(node.target)}
    inside = [name for name in norms if not torch.equal(fetch(still, str(name)), fetch(moved, str(name)))]
    assert len(inside) == 8, "weight and bias of two LayerNorms in each of two blocks"
    assert all(b.error_after < 0.97 * a.error_after for a, b in zip(records(still), records(moved), strict=True))
    assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in before.items())
    with killed_at(90, monkeypatch):
        learn(vit, many_images, tmp_path, norm_learning_rate=1e-2, **changes)
    again = learn(vit, many_images, tmp_path, norm_learning_rate=1e-2, **changes)
    assert all(torch.equal(fetch(again, str(name)), fetch(moved, str(name))) for name in norms)


@pytest.mark.slow
def test_learned_levels_lower_the_error_and_are_deployed(vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    learning = {
        "steps": 60,
        "batch_size": 8,
        "weights": "fixed",
        "precision": "float32",
        "scale_learning_rate": 2e-2,
        "output_weight": 0,
    }
    recipe = {"preset": "codebook-w3a3", "polish": "quick", "reconstruction": learning}
    moved = qpass.quantize_graph(vit, [many_images], recipe, progress=False)
    assert all(row.error_after < 0.995 * row.error_before for row in records(moved))
    path = qpass.export_onnx(moved, tmp_path / "model.onnx")
    assert qpass.verify_onnx(moved, path, many_images[:8]).passed
    assert torch.equal(qpass.load(qpass.save(moved, tmp_path / "model.qpass"))(many_images), moved(many_images))


def test_patience_stops_a_block_that_stands_still(vit: nn.Module, many_images: Tensor) -> None:
    rows = records(learn(vit, many_images, learning_rate=1e-12, focus_learning_rate=0, ranks=[2], steps=200, patience=10))
    assert all(row.steps < 60 for row in rows)


def test_a_network_without_blocks_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    with pytest.raises(UnsupportedError, match="no transformer block to learn"):
        qpass.quantize_graph(model, [torch.randn(4, 8)], "aiqvit-w4a4", progress=False)


def test_the_model_is_not_changed(vit: nn.Module, many_images: Tensor) -> None:
    before = copy.deepcopy(vit.state_dict())
    learn(vit, many_images, steps=2)
    assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in before.items())


class TwoOutputs(nn.Module):
    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.vit(x)
        return logits, logits.sum(-1)


FULL = {"weights": "full", "ends": True, "learning_rate": 1e-3, "curriculum": False}


def test_the_ends_of_a_network_are_learned_too(vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    before, *blocks, after = records(graph := learn(vit, many_images, tmp_path, **FULL))
    assert (before.path, after.path) == ("before the blocks", "after the blocks")
    assert [block.path for block in blocks] == ["blocks.0", "blocks.1"]
    assert before.error_after <= before.error_before
    assert after.error_after < 0.98 * after.error_before
    plain = learn(vit, many_images, **{**FULL, "ends": False})
    with torch.no_grad():
        wanted = vit(many_images)
        assert (graph(many_images) - wanted).square().sum() < (plain(many_images) - wanted).square().sum()
    resumed = learn(vit, many_images, tmp_path, **FULL)
    assert torch.equal(resumed(many_images), graph(many_images))


@pytest.mark.slow
def test_a_patch_embedding_is_learned_if_it_gains(vit: nn.Module, many_images: Tensor) -> None:
    """It is a convolution. A rate that is far too large leaves it as it was, and so do steps of no size."""

    def patches(**changes: object) -> tuple[Tensor, float, float]:
        graph = learn(vit, many_images, **{**FULL, **changes})
        layer = next(module for name, module in graph.named_modules() if "patch_embed" in name and hasattr(module, "codes"))
        return layer.quantized_weight(), records(graph)[0].error_before, records(graph)[0].error_after

    gentle, error, lower = patches(learning_rate=2e-5, scale_learning_rate=0.0)
    assert lower < error
    wild, _, same = patches(learning_rate=10.0)
    assert same == error
    assert not torch.equal(gentle, wild)


def test_several_outputs_leave_the_end_as_it_was(vit: nn.Module, many_images: Tensor) -> None:
    assert [row.path for row in records(learn(TwoOutputs(vit), many_images, **FULL))] == [
        "before the blocks", "vit.blocks.0", "vit.blocks.1",
    ]  # fmt: skip


@pytest.mark.slow
def test_ends_without_layers_are_left_out(vit: nn.Module, many_images: Tensor) -> None:
    config = {
        "preset": "aiqvit-w3a3",
        "rules": {"patch_embed.proj": None, "head": None},
        "reconstruction": {**QUICK, **FULL, "steps": 1},
    }
    graph = qpass.quantize_graph(vit, [many_images], config, progress=False)
    assert [row.path for row in records(graph)] == ["blocks.0", "blocks.1"]
