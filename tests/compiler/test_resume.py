"""What a run depends on, and what is said of a folder of another run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qpass.compiler.resume import RECORD, check_agreement, locked_checkpoint_dir, run_fingerprint
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import ConfigError, DistributedError
from qpass.runtime.distributed import Processes

X = torch.arange(6.0).view(2, 3)


def facts(model: nn.Module | None = None, x: torch.Tensor = X, config: str = "w8a8", seed: int = 0) -> dict[str, Any]:
    if model is None:
        model = nn.Linear(3, 2)
        with torch.no_grad():
            model.weight.fill_(1)
            model.bias.fill_(2)
    return run_fingerprint(model, [ModelInputs((x,), {"n": 3})], QuantConfig.from_any(config), seed)


def test_the_same_run_has_the_same_facts_and_they_are_plain() -> None:
    assert facts() == facts() == json.loads(json.dumps(facts()))


def other_model() -> nn.Module:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(2)
        model.weight[1, 2] = 1 + 2**-20
    return model


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": other_model()}, "model differs"),
        ({"x": X + torch.tensor([[0, 0, 0], [0, 0, 2**-18]])}, "calibration data differs"),
        ({"x": X.view(3, 2)}, "calibration data differs"),
        ({"seed": 3}, "seed is 0, not 3"),
        ({"config": "w8a6"}, r"config has .*activation.bits = 8, not 6"),
    ],
)
def test_every_difference_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with locked_checkpoint_dir(tmp_path / "run", facts()):
        pass
    with locked_checkpoint_dir(tmp_path / "run", facts()):
        pass
    with pytest.raises(ConfigError, match=rf"holds blocks of another run, whose .*{said}.*; expected the same model"):
        locked_checkpoint_dir(tmp_path / "run", facts(**changes)).__enter__()


def test_all_differences_are_said_together(tmp_path: Path) -> None:
    with locked_checkpoint_dir(tmp_path, facts()):
        pass
    with pytest.raises(ConfigError, match="seed is 0, not 1 and number of processes is 1, not 2"):
        locked_checkpoint_dir(tmp_path, {**facts(seed=1), "number of processes": 2}).__enter__()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", f"its {RECORD} is damaged"),
        (b"[" * 10**5, "is damaged"),
        (b"[1]", f"{RECORD} is no record"),
        (b"\xff", "is damaged"),
    ],
)
def test_a_record_that_is_damaged_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        locked_checkpoint_dir(tmp_path, facts()).__enter__()
    assert (tmp_path / RECORD).read_bytes() == content


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"checkpoint_dir .*file.run: cannot be made \(Not a directory\)"):
        locked_checkpoint_dir(tmp_path / "file" / "run", facts()).__enter__()


class Job(Processes):
    """Processes that say what they are told to."""

    def __init__(self, others: list[Any]) -> None:
        super().__init__()
        self._others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, *self._others]


def test_a_process_of_another_run_is_named() -> None:
    own = facts()
    check_agreement(Job([copy.deepcopy(own)]), own)
    with pytest.raises(DistributedError, match="process 1 does another run, whose seed is 4, not 0"):
        check_agreement(Job([facts(seed=4)]), own)
