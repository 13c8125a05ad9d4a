"""Curriculum learning: easiest samples first.

Paper: AIQViT, https://arxiv.org/abs/2502.04628, eq. 16-17.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


class Curriculum:
    """Draws samples from the easiest fraction, ranked by current loss.

    At step t the fraction is λ(t) = min(1, λ0 + (1 - λ0) t / T).

    Args:
        samples: Indices to draw from: (n,).
        steps: Total number of steps T.
        difficulty: Returns the current losses (n,) of sample indices (n,); called at every ranking.
        start: λ0; 1 draws from all samples and never ranks.
        interval: Steps between two rankings.
    """

    def __init__(
        self, samples: Tensor, steps: int, difficulty: Callable[[Tensor], Tensor], *, start: float = 0.5, interval: int = 500
    ) -> None:
        self._samples, self._steps, self._difficulty = samples, steps, difficulty
        self._start, self._interval = start, interval

    def share(self, step: int) -> float:
        """Returns λ(t)."""
        return min(1.0, self._start + (1 - self._start) * step / self._steps)

    def draw(self, step: int, size: int, generator: torch.Generator) -> Tensor:
        """Returns the indices of one batch: ``size`` of them, or all samples if there are fewer.

        The pool holds at least one batch, because a graph with a fixed batch size takes no smaller one.
        """
        if self.share(step) < 1 and step % self._interval == 0:
            self._samples = self._samples[self._difficulty(self._samples).argsort(stable=True)]
        pool = max(size, math.ceil(self.share(step) * len(self._samples)))
        pool = min(pool, len(self._samples))
        return self._samples[torch.randperm(pool, generator=generator)[:size]]
