"""The result of a comparison with the caller's model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """Comparison of the float graph with the caller's model.

    Attributes:
        samples: Number of calibration samples that both ran on.
        error: Largest difference of an output value, relative to the root mean square of that output,
            over all passes. For integers, the share of values that differ.
        bound: Largest error that would have passed: 3e-5, or, if the error is larger, twice the effect
            on the graph's outputs of roundings 32 times as coarse as float32's.
        passes: The steps after which graph and model were compared, in order.
        valued: Whether every float output has a finite value in some sample.
    """

    samples: int
    error: float
    bound: float
    passes: tuple[str, ...]
    valued: bool = True

    @property
    def informative(self) -> bool:
        """Whether the comparison proves anything.

        False if rounding alone changes an output by as much as its magnitude, or if an output has no
        finite value.
        """
        return self.bound < 1 and self.valued

    def __str__(self) -> str:
        vague = "" if self.bound < 1 else "; not informative: roundings alone change an output by as much as its size"
        vague += "" if self.valued else "; not informative: an output is NaN or infinite throughout"
        return (
            f"the float graph against the given model: error {self.error:.1e}, bound {self.bound:.1e}, "
            f"{self.samples} samples, after {', '.join(self.passes)}{vague}"
        )
