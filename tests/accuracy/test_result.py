"""The recipe is short where a preset says most of it, and means the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qpass.accuracy.drop import Scores, tango_limit
from qpass.accuracy.result import Trial, recipe_yaml, trial_table
from qpass.config import QuantConfig

RULES = ({"blocks.0.fc[[]1]": {"weight": {"bits": 8, "symmetric": True}}}, {"head": None})


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ("w4a8", {"preset", "rules"}),
        ({"preset": "w4a8", "fold_layer_norm": None}, set()),
        ({"name": "own"}, set()),
        ({"preset": "aiqvit-w4a8", "schedule": "full"}, set()),
    ],
)
def test_the_recipe_means_the_same(config: object, keys: set[str], tmp_path: Path) -> None:
    made = QuantConfig.from_any(config).with_rules(*RULES)  # type: ignore[arg-type]
    text = recipe_yaml(made)
    if keys:
        assert set(yaml.safe_load(text)) == keys
    (tmp_path / "recipe.yaml").write_text(text)
    assert QuantConfig.from_yaml(tmp_path / "recipe.yaml") == made


def test_the_table_marks_what_was_chosen_and_says_what_was_asked() -> None:
    base = Scores((1.0,) * 8 + (0.0,) * 2, by_sample=True)
    trials = [
        Trial("narrow", {"name": "a"}, 1_000_000, Scores((1.0,) * 5 + (0.0,) * 5, by_sample=True)),
        Trial("wide", {"name": "b"}, 2_500_000, base, 1.25),
    ]
    narrow, wide = trial_table(trials, base, 0.2, {"name": "b"}).splitlines()[2:]
    assert narrow.split() == ["narrow", "1.000", "0.30", "±", "0.14", f"{tango_limit(3, 0, 10):.2f}"]
    assert wide.split()[:4] == ["*", "wide", "2.500", "1.25x"]
    assert "at most 0.2 with 95 % confidence" in trial_table(trials, base, 0.2)
    one = Scores((0.7,), by_sample=False)
    assert "without a confidence" in trial_table([Trial("a", {}, 1, one)], one, 0.2)
