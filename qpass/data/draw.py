"""Draws calibration samples at random, spread over their classes."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Hashable, Sequence

import torch

from qpass.config.fields import at_least_one, optional
from qpass.data.image_source import ImageSource
from qpass.data.labels import relative
from qpass.runtime.arguments import check_seed

_count = optional(at_least_one)


def draw_samples(groups: Sequence[Hashable], count: int | None = None, *, seed: int = 0) -> list[int]:
    """Returns indices of samples in random order, spread over their groups.

    Every group gives one sample before any gives a second, and so on until none has more. So the
    first samples of a longer draw are a shorter draw of the same seed.

    Args:
        groups: Group of each sample, such as its class. If all are equal, this is a plain permutation.
        count: How many to draw; None, or more than there are, draws all.
        seed: Seed of the permutation.

    Raises:
        ConfigError: If ``count`` is not a positive integer, or the seed is invalid.
    """
    _count(count, "count")
    check_seed(seed)
    order: list[int] = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    earlier = Counter[Hashable]()
    turn = {}
    for index in order:
        turn[index] = earlier[groups[index]]
        earlier[groups[index]] += 1
    return sorted(order, key=turn.__getitem__)[:count]


def draw_images(source: ImageSource, count: int | None = None, *, seed: int = 0) -> ImageSource:
    """Returns images in random order, spread over their classes (see ``draw_samples``).

    Image folders are often sorted by class, so the first images show only the first classes. Without
    labels, each sub-folder counts as a class.

    Args:
        source: Images from ``open_images``.
        count: How many to draw; None, or more than there are, draws all.
        seed: Seed of the permutation.

    Raises:
        ConfigError: If ``count`` is not a positive integer, or the seed is invalid.
    """
    folders = [posixpath.dirname(relative(name)) for name in source.names]
    return source.take(draw_samples(folders if source.labels is None else source.labels, count, seed=seed))
