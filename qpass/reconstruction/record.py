"""Record of a learned block for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    """

    path: str
    error_before: float
    error_after: float
    steps: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)
    stage: str = ""

    @property
    def label(self) -> str:
        """Path and stage."""
        return f"{self.path}, {self.stage}" if self.stage else self.path
