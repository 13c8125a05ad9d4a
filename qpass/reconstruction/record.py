"""Record of a learned block for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A search is decided if the best candidate's share is at least this many times the second's.
_CLEARLY_AHEAD = 1.5


@dataclass(frozen=True)
class RankSearch:
    """How the search of a Linear's rank went.

    Attributes:
        candidates: The ranks, in ascending order.
        shares: ᾱ of each candidate at the end; they sum to one.
        entropies: Normalized entropy of ᾱ at regular intervals: 1 if all shares are equal, 0 if one
            candidate has everything.
    """

    candidates: tuple[int, ...]
    shares: tuple[float, ...]
    entropies: tuple[float, ...]

    @property
    def decided(self) -> bool:
        """Whether the best candidate's share is at least 1.5 times the second's."""
        second, best = sorted(self.shares)[-2:]
        return best >= _CLEARLY_AHEAD * second


@dataclass(frozen=True)
class BlockRecord:
    """One learned block.

    Attributes:
        path: Module path.
        error_before: Squared output error relative to the squared target, over all samples, before
            learning.
        error_after: The same after learning.
        steps: Calibration steps run.
        ranks: Chosen rank of each compensated Linear, by module path.
        intervals: b1, b2 and the reading of each ``dynamic-focus`` quantizer, by name.
        stage: Name of the learning stage; "" if there is only one.
        searches: The rank search of each Linear that had several candidates, by module path.
        full_ranks: Module paths of Linears whose rank equals the smaller side of their weight.
    """

    path: str
    error_before: float
    error_after: float
    steps: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)
    stage: str = ""
    searches: Mapping[str, RankSearch] = field(default_factory=dict)
    full_ranks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Path and stage."""
        return f"{self.path}, {self.stage}" if self.stage else self.path
