"""Means and their errors, over images and seeds, and one rule for when two rows differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: From so many standard errors on a difference is called one.
ERRORS_APART = 2.0
#: Resamples of a bootstrap, and the seed that draws them: the same for every row, so that rows can
#: be compared.
RESAMPLES, RESAMPLING_SEED = 200, 0


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    @property
    def differs(self) -> bool:
        """Whether this difference is one: at least two errors from zero."""
        return self.value != 0 and abs(self.value) >= ERRORS_APART * self.error

    def text(self, digits: int) -> str:
        """Returns both with so many digits behind the point; what rounds to zero has no sign."""
        return f"{round(self.value, digits) + 0.0:.{digits}f} ± {self.error:.{digits}f}"

    def __str__(self) -> str:
        return self.text(1)


def over_images_and_seeds(values: np.ndarray) -> Estimate:
    """Returns the mean of values (seeds, images) and its error, for other images and other seeds.

    With one seed this is the error over images. With several, it is that of a mean over two crossed
    factors: the variance of the images' means plus that of the seeds' means, less what both count
    (Cameron, Gelbach and Miller 2011, doi 10.1198/jbes.2010.07136). Seeds never make the error
    smaller than that over images.
    """
    seeds, images = values.shape
    by_image, by_seed = values.mean(0), values.mean(1)
    over_images = by_image.var(ddof=1) / images if images > 1 else 0.0
    if seeds == 1:
        return Estimate(float(values.mean()), float(over_images**0.5))
    over_seeds = by_seed.var(ddof=1) / seeds
    left = values - by_image - by_seed[:, None] + values.mean()
    twice = (left**2).sum() / max(1, (seeds - 1) * (images - 1)) / (seeds * images)
    return Estimate(float(values.mean()), float(max(over_images, over_images + over_seeds - twice) ** 0.5))


def over_resamples(scores: np.ndarray, resampled: np.ndarray) -> Estimate:
    """Returns the mean of scores and its error, by resamples of the images and over seeds.

    Args:
        scores: (seeds,).
        resampled: The same on resamples of the images: (seeds, resamples).
    """
    seeds = len(scores)
    variance = resampled.mean(0).var(ddof=1) + (scores.var(ddof=1) / seeds if seeds > 1 else 0.0)
    return Estimate(float(scores.mean()), float(variance**0.5))


def resamples(images: int) -> np.ndarray:
    """Returns indices of images, drawn with replacement: (RESAMPLES, images)."""
    return np.random.default_rng(RESAMPLING_SEED).integers(images, size=(RESAMPLES, images))
