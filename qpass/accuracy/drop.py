"""How far scores drop, and how far at most with a confidence of 95 %.

Scores of 0 and 1 (or 100), such as right and wrong: the limit is Tango's (Statistics in Medicine
17, 1998, 891), from the score test of two paired proportions. It also holds for few samples, and
where no sample changes. Other scores: the limit of a paired t test. Both are one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

from qpass.errors import ConfigError
from qpass.evaluation.top1 import paired_drop

#: Confidence of a limit.
CONFIDENCE = 0.95
#: Returns a score, or one for each sample, for something that is called like the model.
Metric = Callable[[Callable[..., Any]], Any]


@dataclass(frozen=True)
class Scores:
    """What a metric returned.

    Attributes:
        values: One score for each sample, or a single one for all.
        by_sample: Whether there is one for each sample.
    """

    values: tuple[float, ...]
    by_sample: bool

    @property
    def mean(self) -> float:
        """The score of all samples together."""
        return math.fsum(self.values) / len(self.values)

    @property
    def unit(self) -> float | None:
        """What a sample scores that is right, if samples are right or wrong; None for other scores."""
        found = set(self.values)
        if not self.by_sample or not (found <= {0.0, 1.0} or found <= {0.0, 100.0}):
            return None
        return 100.0 if 100.0 in found else 1.0


@dataclass(frozen=True)
class Drop:
    """How far a network's score is below that of the float network, on the same samples.

    Attributes:
        value: The drop; negative for a gain.
        error: Its paired standard error; None if the metric gives one number for all samples.
        limit: What the drop is at most, with a confidence of 95 %; the drop itself without an error.
    """

    value: float
    error: float | None
    limit: float

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.value:.3g}"
        return f"{self.value:.2f} ± {self.error:.2f}, at most {self.limit:.2f}"


def as_scores(returned: Any) -> Scores:
    """Returns what a metric returned, checked.

    Raises:
        ConfigError: If it is no finite number and no sequence of at least two.
    """
    expected = "a number, or a finite score for each of at least two samples"
    try:
        array = np.asarray(returned.detach().cpu() if isinstance(returned, Tensor) else returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"returned a {type(returned).__name__}", where="evaluate", expected=expected) from error
    if array.ndim > 1 or (array.ndim == 1 and len(array) < 2):
        raise ConfigError(f"returned values of shape {array.shape}", where="evaluate", expected=expected)
    if not np.isfinite(array).all():
        raise ConfigError("returned a score that is not finite", where="evaluate", expected=expected)
    return Scores(tuple(array.reshape(-1).tolist()), by_sample=array.ndim == 1)


def drop_of(scores: Scores, base: Scores) -> Drop:
    """Returns how far scores are below others of the same samples.

    Raises:
        ConfigError: If they are of another number of samples.
    """
    if (len(scores.values), scores.by_sample) != (len(base.values), base.by_sample):
        what = f"returned {len(scores.values)} scores, and {len(base.values)} for the float network"
        raise ConfigError(what, where="evaluate", expected="the same samples in every call")
    if not scores.by_sample:
        return Drop(base.mean - scores.mean, None, base.mean - scores.mean)
    ours, theirs = np.array(scores.values), np.array(base.values)
    value, error = paired_drop(*(Tensor(values).double() for values in (ours, theirs)))
    unit = _common_unit(scores, base)
    if unit is None:
        return Drop(value, error, value + _t_quantile(len(ours) - 1) * float((theirs - ours).std(ddof=1)) / len(ours) ** 0.5)
    losses, gains = int((theirs > ours).sum()), int((theirs < ours).sum())
    return Drop(value, error, unit * tango_limit(losses, gains, len(ours)))


def least_limit(base: Scores) -> float:
    """Returns the smallest limit that these samples can show: that of a network that changes none."""
    return 0.0 if base.unit is None else base.unit * tango_limit(0, 0, len(base.values))


def samples_for(limit: float, base: Scores) -> int:
    """Returns how many samples a limit takes at least, where samples are right or wrong."""
    z = _normal_quantile()
    share = limit / (base.unit or 1.0)
    return math.ceil(z * z * (1 - share) / share)


def tango_limit(losses: int, gains: int, samples: int) -> float:
    """Returns the upper limit of the share that is lost less the share that is gained.

    Args:
        losses: Samples that only the first of two networks has right.
        gains: Samples that only the second has right.
        samples: Samples of both.
    """
    low, high, z = (losses - gains) / samples, 1.0, _normal_quantile()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(losses, gains, samples, middle) > -z else (low, middle)
    return high


def _score(losses: int, gains: int, samples: int, drop: float) -> float:
    """Returns the statistic for a true drop: normal, with the variance of the likeliest such shares."""
    b = (2 * samples - losses + gains) * drop - losses - gains
    c = -gains * drop * (1 - drop)
    gained = (math.sqrt(max(0.0, b * b - 8 * samples * c)) - b) / (4 * samples)
    variance = samples * (2 * gained + drop * (1 - drop))
    difference = losses - gains - samples * drop
    return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference)


def _common_unit(*both: Scores) -> float | None:
    units = [scores.unit for scores in both]
    if None in units:
        return None
    return max(unit for unit in units if unit is not None)


def _normal_quantile() -> float:
    return NormalDist().inv_cdf(CONFIDENCE)


def _t_quantile(freedom: int) -> float:
    from scipy.stats import t  # slow to import

    return float(t.ppf(CONFIDENCE, freedom))
