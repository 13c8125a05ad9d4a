"""Which passes each recipe is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import DistributedError
from qpass.passes import Calibrate, RefitQuantizers
from qpass.reconstruction import Reconstruct
from qpass.runtime.distributed import Processes

BATCHES = [ModelInputs((torch.zeros(8, 3),), {}) for _ in range(40)]
COMMON = ["Calibrate", "InsertQuantizers", "AllocateBits"]


def names(recipe: Any) -> list[str]:
    return [type(step).__name__ for step in pipeline(QuantConfig.from_any(recipe), BATCHES)]


@pytest.mark.parametrize(
    ("recipe", "before", "after"),
    [
        ("repq-vit-w4a4", [], ["FoldLayerNorm", "AddResidual"]),
        (
            "w4a4",
            ["RotateResidual", "RotateHeads"],
            ["FoldLayerNorm", "KeepReference", "RidgeAndGPTQ", "AddResidual"],
        ),
        ({"preset": "w4a4", "rotate_heads": False}, ["RotateResidual"], None),
        ({"preset": "w4a4", "fold_layer_norm": None}, None, ["KeepReference", "RidgeAndGPTQ", "AddResidual"]),
    ],
)
def test_recipes_that_do_not_learn(recipe: Any, before: list[str] | None, after: list[str] | None) -> None:
    found = names(recipe)
    assert found[0] == "Canonicalize"
    assert found[-2:] == ["NarrowRows", "Freeze"]
    if before is not None:
        assert found[1 : found.index("Annotate")] == before
    middle = found.index("RefitQuantizers")
    assert found[found.index("Annotate") + 1 : middle] == COMMON
    if after is not None:
        assert found[middle + 1 : -2] == after


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("fold-first", ["FoldLayerNorm", "AddResidual", "KeepReference", "Reconstruct"]),
        ("paper", ["KeepReference", "Reconstruct", "FoldLayerNorm", "AddResidual"]),
        (
            "three-stage",
            ["KeepReference", "Reconstruct", "FoldLayerNorm", "ResumeWeightRounding", "AddResidual", "Reconstruct"],
        ),
    ],
)
def test_recipes_that_learn(order: str, expected: list[str]) -> None:
    preset = "ias-vit-w4a4" if order == "three-stage" else "aiqvit-w4a4"
    found = names({"preset": preset, "reconstruction": {"order": order}})
    assert "RequireBlocks" in found
    assert found[found.index("RefitQuantizers") + 1 : -2] == expected
    assert ("SuspendWeightRounding" in found) == (order == "three-stage")


def test_three_stages_learn_activations_from_the_float_network_and_then_weights(tmp_path: Path) -> None:
    steps = pipeline(QuantConfig.from_any("ias-vit-w4a4"), BATCHES, checkpoint_dir=tmp_path)
    first, second = [step for step in steps if isinstance(step, Reconstruct)]
    assert (first.stage, second.stage) == ("activations", "weights")
    assert (first.config.inputs, second.config.inputs) == ("float", "quantized")
    assert (first.checkpoint_dir, second.checkpoint_dir) == (tmp_path / "activations", tmp_path / "weights")


def test_ranges_are_fitted_to_a_share_of_the_samples_where_learning_uses_more() -> None:
    config = QuantConfig.from_any("aiqvit-w4a4")
    steps = pipeline(config, BATCHES)
    (calibrate,) = [step for step in steps if isinstance(step, Calibrate)]
    (learn,) = [step for step in steps if isinstance(step, Reconstruct)]
    assert config.range_samples == 128
    assert sum(len(batch.args[0]) for batch in calibrate.batches) == 128
    assert sum(len(batch.args[0]) for batch in learn.batches) == 320


def test_nothing_is_fitted_again_where_ranges_come_from_the_float_network() -> None:
    for source, batches in (("float", 0), ("quantized", 40)):
        config = QuantConfig.from_any({"preset": "w8a8", "calibrate_on": source})
        (refit,) = [step for step in pipeline(config, BATCHES) if isinstance(step, RefitQuantizers)]
        assert len(refit.batches) == batches


def test_more_processes_than_batches_are_refused() -> None:
    with pytest.raises(DistributedError, match="40 batches to calibrate on for 50 processes"):
        pipeline(QuantConfig.from_any("w8a8"), BATCHES, processes=Processes(size=50))
