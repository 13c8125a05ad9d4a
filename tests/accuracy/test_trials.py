"""Trials survive the process; those of another metric are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpass.accuracy.drop import Scores
from qpass.accuracy.result import Trial
from qpass.accuracy.trials import TRIALS, Trials, key_of
from qpass.config import QuantConfig
from qpass.errors import ConfigError, DataError
from qpass.passes.analysis.tensor_sensitivity import Sensitivity, TensorSensitivity

CONFIG = QuantConfig.from_any("w8a8")
BASE = Scores((0.5, 1.0), by_sample=True)


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    trial = Trial("as it is", CONFIG.to_dict(), 100, Scores((1.0, 0.0), by_sample=True), 1.5)
    tensor = TensorSensitivity((("head", "weight"),), 4, 10, {4: 0.1, 8: 0.01}, {8: {"bits": 8, "symmetric": True}})
    found = Sensitivity((tensor,), {"head": 20})
    first = Trials(tmp_path)
    assert first.find(CONFIG) is first.sensitivity(CONFIG) is None
    first.base(BASE)
    first.add(CONFIG, trial)
    first.add_sensitivity(CONFIG, found)
    again = Trials(tmp_path)
    assert again.base(BASE) == BASE
    assert again.find(CONFIG) == trial
    assert again.sensitivity(CONFIG) == found
    other = CONFIG.excluding(["head"])
    assert again.find(other) is None
    assert key_of(other) != key_of(CONFIG)


@pytest.mark.parametrize("scores", [Scores((0.6, 1.0), True), Scores((0.5,), False), Scores((0.5, 1.0, 1.0), True)])
def test_another_metric_is_refused(tmp_path: Path, scores: Scores) -> None:
    Trials(tmp_path).base(BASE)
    with pytest.raises(ConfigError, match=r"scores the float network .* before; expected the metric and data of the trials in"):
        Trials(tmp_path).base(scores)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text('{"base": 3}')
    with pytest.raises(DataError, match="is damaged"):
        Trials(tmp_path)
