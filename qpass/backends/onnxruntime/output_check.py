"""Checks a file's outputs: by value for torch's codes, and in a free run within torch's uncertainty.

In a free run, the file computes its own codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qpass.backends.onnxruntime.tolerance import DECIDED, differences, envelope
from qpass.backends.onnxruntime.torch_run import TorchRun, distance, misplaced, size, without_fills
from qpass.backends.onnxruntime.uncertainty import Uncertainty

#: Whole network: limit of onnxruntime's error against float32 torch, over torch's own uncertainty.
ERROR_RATIO = 1.5
#: Outputs that agree to this many dB are equal to float32 precision. A network without ties is held
#: to this.
FLOAT32_DB = 90.0
#: If rounding decides a larger share of an output, as after many sines of large angles, nothing is
#: proven about it.
UNDECIDED_SHARE = 0.5


@dataclass(frozen=True)
class OutputCheck:
    """One output of the network.

    Attributes:
        name: Its name in the file.
        values: Number of values compared.
        wrong: Values that differ by more than float32 explains, given torch's codes at all
            quantizers.
        undecided: Values that differ where rounding decides between very different values.
        off: Largest difference, as a multiple of what float32 explains.
        misplaced: Values that are NaN or infinite on one side only in the free run, beyond float32
            torch's own uncertainty.
        sqnr_db: Signal over error in the free run, in dB.
        error_ratio: Error of the free run over torch's own uncertainty; 0 for non-float outputs.
        informative: Whether the free run proves anything: some values are finite, and a file that
            ignores its input would exceed the bound.
        suspects: Layers that only this output and other wrong ones depend on.
    """

    name: str
    values: int
    wrong: int
    undecided: int
    off: float
    misplaced: int = 0
    sqnr_db: float = math.inf
    error_ratio: float = 0.0
    informative: bool = True
    suspects: tuple[str, ...] = ()

    @property
    def decided(self) -> bool:
        """Whether rounding decides at most ``UNDECIDED_SHARE`` of its values."""
        return self.undecided <= UNDECIDED_SHARE * self.values

    @property
    def failures(self) -> list[str]:
        """What is out of bounds, in words."""
        causes = f", from {', '.join(self.suspects)}" if self.suspects else ""
        found = []
        if self.wrong:
            found.append(
                f"output {self.name!r}: {self.wrong} of {self.values} values are wrong for torch's codes, up to "
                f"{self.off:.3g} times as far as float32 explains{causes}"
            )
        if self.misplaced:
            found.append(f"output {self.name!r}: {self.misplaced} values are NaN or infinite only here or only in torch")
        return found


def check_output(name: str, found: np.ndarray, reference: TorchRun, index: int) -> OutputCheck:
    """Compares one output of a forced file, fed torch's codes, with torch's output.

    Args:
        name: The output's name.
        found: The runtime's output.
        reference: Torch's run.
        index: Index of the output.
    """
    expected = reference.outputs[index]
    if found.shape != expected.shape or found.dtype.kind != expected.dtype.kind:
        return OutputCheck(name, expected.size, max(expected.size, found.size, 1), 0, math.inf)
    if not expected.size:
        return OutputCheck(name, 0, 0, 0, 0.0)
    x = torch.from_numpy(expected)
    difference = differences(torch.from_numpy(found), x)
    if (difference > reference.bounds[index]).any():
        reference.look_closer()
    bound = reference.bounds[index].clamp(min=torch.finfo(torch.float32).tiny)
    wrong = difference > bound
    undecided = (difference > _agreement(x)) & ~wrong
    decided = torch.where(bound.isfinite(), difference / bound, 0.0)
    return OutputCheck(name, expected.size, int(wrong.sum()), int(undecided.sum()), float(decided.amax()))


def joined(first: OutputCheck, second: OutputCheck) -> OutputCheck:
    """Merges the checks of one output for two sets of codes."""
    return replace(
        first,
        values=first.values + second.values,
        wrong=first.wrong + second.wrong,
        undecided=first.undecided + second.undecided,
        off=max(first.off, second.off),
    )


def _agreement(expected: Tensor) -> Tensor:
    """Returns the difference up to which values agree, however far rounding may move them."""
    if not expected.is_floating_point():
        return torch.zeros(())
    return DECIDED * envelope(expected.double().abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))


def check_freely(check: OutputCheck, found: np.ndarray, expected: np.ndarray, own: Uncertainty) -> OutputCheck:
    """Adds the results of the free run to the check of an output.

    Args:
        check: Its check with torch's codes at all quantizers.
        found: The runtime's output.
        expected: Torch's output.
        own: Torch's own uncertainty.
    """
    away = misplaced(found, expected)
    found, expected = without_fills(found, expected, added=own.filled)
    is_wrong = away > ERROR_RATIO * own.misplaced or (found.dtype.kind == "f" and np.isnan(found).any() and not own.nan)
    noise, signal = distance(found, expected), size(expected)
    floor = max(own.distance, signal * 10 ** (-FLOAT32_DB / 20))
    is_float = expected.dtype.kind == "f"
    return replace(
        check,
        misplaced=max(away, 1) if is_wrong else 0,
        sqnr_db=decibels(noise, signal),
        error_ratio=_ratio(noise, floor) if is_float else 0.0,
        informative=not is_float or _proves(expected, own),
    )


def _proves(expected: np.ndarray, own: Uncertainty) -> bool:
    """Returns whether a free run within its bound proves anything about a float output."""
    if expected.size and not np.isfinite(expected).any():
        return False
    return not own.distance or ERROR_RATIO * own.distance < _of_the_input(expected)


def decibels(noise: float, signal: float) -> float:
    """Returns signal over noise in dB; infinite without noise, or without a signal to compare it with."""
    if not noise or not signal:
        return math.inf
    return 20 * math.log10(signal / noise) if math.isfinite(noise) else -math.inf


def whole_run(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], own: Sequence[Uncertainty]) -> tuple[float, float]:
    """Returns signal over error in dB, and error over torch's own uncertainty, for all float outputs.

    Each output is scaled by its norm, so that none hides behind a larger one.
    """
    noise = spread = 0.0
    pairs = [without_fills(a, b, added=each.filled) for a, b, each in zip(outputs, expected, own, strict=True)]
    for (found, output), each in zip(pairs, own, strict=True):
        signal = size(output)
        if output.dtype.kind == "f" and signal:
            noise += (distance(found, output) / signal) ** 2
            spread += max(each.distance / signal, 10 ** (-FLOAT32_DB / 20)) ** 2
    count = sum(output.dtype.kind == "f" and size(output) > 0 for _, output in pairs)
    return decibels(math.sqrt(noise), math.sqrt(count)), _ratio(math.sqrt(noise), math.sqrt(spread))


def _ratio(noise: float, floor: float) -> float:
    if floor:
        return noise / floor
    return math.inf if noise else 0.0


def _of_the_input(expected: np.ndarray) -> float:
    """Returns the least error of a file that ignores its input: its output is at best the mean.

    The mean is over samples, or over all values of a single sample.
    """
    finite = np.where(np.isfinite(expected), expected, 0).astype(np.float64)
    mean = finite.mean(0, keepdims=True) if finite.ndim and len(finite) > 1 else finite.mean()
    return float(np.linalg.norm(np.where(np.isfinite(expected), finite - mean, 0)))
