"""The result of a comparison with the caller's model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """The float graph against the caller's model.

    Attributes:
        samples: Calibration samples that both were run on.
        error: Greatest difference of an output value, relative to the root mean square of that output, over all passes. For
            integers the share of values that differ.
        bound: The greatest error that would have passed: 3e-5 or, if the error is larger, twice the effect that roundings 32
            times as coarse as those of float32 have on the graph's outputs.
        passes: The steps after which graph and model were compared, in order.
        valued: Whether every output of floats has a finite value in some sample.
    """

    samples: int
    error: float
    bound: float
    passes: tuple[str, ...]
    valued: bool = True

    @property
    def informative(self) -> bool:
        """Whether the comparison proves anything.

        False where roundings alone change an output by as much as its size, or where an output has no finite value.
        """
        return self.bound < 1 and self.valued

    def __str__(self) -> str:
        vague = "" if self.bound < 1 else "; not informative: roundings alone change an output by as much as its size"
        vague += "" if self.valued else "; not informative: an output is NaN or infinite throughout"
        return (
            f"the float graph against the given model: error {self.error:.1e}, bound {self.bound:.1e}, "
            f"{self.samples} samples, after {', '.join(self.passes)}{vague}"
        )
