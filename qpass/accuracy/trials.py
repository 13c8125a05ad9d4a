"""Trials kept on disk, so that a run that was stopped tries no candidate twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qpass.accuracy.drop import Scores
from qpass.accuracy.result import Trial
from qpass.config import QuantConfig
from qpass.errors import ConfigError, DataError
from qpass.passes.analysis.tensor_sensitivity import Sensitivity
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.plain_data import check_plain
from qpass.runtime.records import record

#: Name of the file.
TRIALS = "trials.json"
#: Largest difference, relative to the scores, of two evaluations of the float network.
_SAME = 1e-3


@dataclass(frozen=True)
class _Kept:
    """Content of the file.

    Attributes:
        base: Scores of the float network.
        trials: Each trial, by the key of its recipe.
        sensitivities: What each tensor costs, by the key of the recipe.
    """

    base: Scores | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=dict)


def key_of(config: QuantConfig) -> str:
    """Returns a short name of a recipe that no other recipe has."""
    return hashlib.sha256(json.dumps(config.to_dict()).encode()).hexdigest()[:16]


class Trials:
    """The trials of one model, calibration data and metric.

    Args:
        folder: Where they are kept; None keeps them in memory.

    Raises:
        DataError: If the file is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / TRIALS
        self._kept = _Kept() if self._path is None or not self._path.exists() else _read(self._path)

    def base(self, scores: Scores) -> Scores:
        """Notes the scores of the float network, or compares them with those that were noted.

        Raises:
            ConfigError: If they differ: the metric or its data is not the same.
        """
        before = self._kept.base
        if before is None:
            self._note(base=scores)
            return scores
        same = (len(before.values), before.by_sample) == (len(scores.values), scores.by_sample)
        scale = max(map(abs, before.values))
        if not same or np.abs(np.subtract(before.values, scores.values)).max() > _SAME * scale:
            raise ConfigError(
                f"scores the float network {scores.mean:.4g}, and scored it {before.mean:.4g} before",
                where="evaluate",
                expected=f"the metric and data of the trials in {self._path}",
                hint="give another folder (--output), or delete this one (--discard)",
            )
        return before

    def find(self, config: QuantConfig) -> Trial | None:
        """Returns the trial of a recipe, or None."""
        return self._kept.trials.get(key_of(config))

    def add(self, config: QuantConfig, trial: Trial) -> None:
        """Keeps a trial."""
        self._note(trials={**self._kept.trials, key_of(config): trial})

    def sensitivity(self, config: QuantConfig) -> Sensitivity | None:
        """Returns what each tensor costs, or None."""
        return self._kept.sensitivities.get(key_of(config))

    def add_sensitivity(self, config: QuantConfig, found: Sensitivity) -> None:
        """Keeps what each tensor costs."""
        self._note(sensitivities={**self._kept.sensitivities, key_of(config): found})

    def _note(self, **changes: Any) -> None:
        self._kept = replace(self._kept, **changes)
        if self._path is not None:
            write_whole(self._path, json.dumps(asdict(self._kept)))


def _read(path: Path) -> _Kept:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        check_plain(data, "trials")
        return record(_Kept, data, "trials")
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise DataError(f"is damaged: {error}", where=str(path), hint="delete it") from error
