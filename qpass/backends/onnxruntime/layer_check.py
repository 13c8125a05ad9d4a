"""Checks a runtime's codes by layer, up to ties float32 cannot decide, and the values before rounding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qpass.backends.onnxruntime.perturbed import MORE_PAIRS, PAIRS
from qpass.backends.onnxruntime.rounded import cut_off, rounding_of
from qpass.backends.onnxruntime.tolerance import DECIDED, MOVE, differences, envelope
from qpass.backends.onnxruntime.torch_run import FLOAT32_ERRORS, Reach, TorchRun
from qpass.quantizers import Quantizer

#: A differing code is a tie if its input, moved by this share of the tensor's largest magnitude,
#: can get the other code as well. Two float32 sums of a few hundred terms in different orders
#: differ by about this much.
TIE_TOLERANCE = 2e-6
#: Values before rounding may differ by this many times torch's own largest error in the same
#: channel, token or sample. Where values cancel, an error may be small by chance, so groups of
#: fewer than ``LEAST_GROUP`` values do not count.
VALUE_ERRORS, LEAST_GROUP = 16.0, 16
#: Four roundings (two dequantizations, a product, a division by the scale), as a share of the
#: tensor's largest magnitude. If the exact value is this close to the boundary of two codes,
#: float32 cannot decide. This is rare where values are spread out, but a few probabilities times a
#: few codes can produce dozens.
FOUR_ROUNDINGS = 4 * 2.0**-24
#: Expected share of other ties among a tensor's codes. Counts of rare events scatter, so the limit
#: is the count that a Poisson variable of that mean exceeds with this probability. Networks have
#: hundreds of tensors: chance refuses an intact file about once in a thousand networks.
TIE_SHARE, TIE_CHANCE = 1e-4, 1e-6


@dataclass(frozen=True)
class LayerCheck:
    """Check of one quantizer's codes, with all earlier layers fed the reference's codes.

    Attributes:
        quantizer: Name of the quantizer in the graph.
        codes: Number of codes compared.
        ties: Codes that differ where the input lies on the boundary of two codes.
        own_ties: Codes that float32 cannot decide. Their input, computed in float64 from the same
            earlier codes, is within ``FOUR_ROUNDINGS`` of the boundary of two codes, or within
            ``FLOAT32_ERRORS`` times the root mean square of torch's own float32 errors. Ties from a
            data-dependent choice before the quantizer, such as a top-k that rounding flips, count
            too. 0 if there are no more ties than any tensor may have.
        wrong: Other codes that differ.
        caused_by: The operator that computed the quantizer's input, if codes differ.
        off: Largest error of the values before rounding, as a multiple of what float32 explains:
            low-bit codes hide errors that are small compared with a step. 0 if not compared.
        constants: Which constants of the quantizer differ from the graph's.
        informative: Whether the comparison proves anything: False if torch's own float32 errors are
            as large as the spread of the values.
        suspects: Layers that only this quantizer and other wrong ones depend on.
    """

    quantizer: str
    codes: int
    ties: int
    own_ties: int
    wrong: int
    caused_by: str = ""
    off: float = 0.0
    constants: str = ""
    informative: bool = True
    suspects: tuple[str, ...] = ()

    @property
    def codes_agree(self) -> bool:
        """Whether no code is wrong and ties are few."""
        return self.wrong == 0 and self.ties <= self.own_ties + _ties_of_any(self.codes)

    @property
    def passed(self) -> bool:
        """Whether the codes, the values before rounding and the quantizer's constants agree."""
        return self.codes_agree and self.off <= 1 and not self.constants

    @property
    def failure(self) -> str:
        """What is wrong, in words, with the suspected layers; "" if nothing is."""
        found = [] if self.codes_agree else [f"{self.wrong} wrong codes and {self.ties} ties of {self.codes}"]
        found += [f"its input is {self.off:.3g} times as far from torch's as float32 explains"] if self.off > 1 else []
        found += [self.constants] if self.constants else []
        causes = [cause for cause in (self.caused_by, ", ".join(self.suspects)) if cause]
        return f"{self.quantizer}: {'; '.join(found)}" + (f", from {' in '.join(causes)}" if causes else "") if found else ""


def check_layers(
    reference: TorchRun,
    computed: Callable[[str], Tensor],
    cause: Callable[[str], str] = lambda quantizer: "",
    *,
    values: Callable[[str], Tensor] | None = None,
    constants: Mapping[str, str] | None = None,
) -> tuple[LayerCheck, ...]:
    """Compares a runtime's results for a forced file, fed torch's codes, with torch's own results.

    Args:
        reference: Torch's run.
        computed: Returns the codes that the runtime computes for a quantizer.
        cause: Names the operator that computes a quantizer's input.
        values: Returns the values that the runtime rounds for a quantizer, if they were kept.
        constants: What is wrong with the constants of each quantizer.
    """
    checks = []
    for name, quantizer in reference.quantizers.items():
        expected = reference.codes[name]
        x, exact = reference.inputs[name], reference.exact[name]
        ties, wrong = _compare(quantizer, x, exact, expected, computed(name))
        caused_by = cause(name) if ties or wrong else ""
        own_ties = _own_ties(quantizer, x, exact) if ties > _ties_of_any(expected.numel()) else 0
        wrong_constants = (constants or {}).get(name, "")
        checks.append(
            LayerCheck(
                name,
                expected.numel(),
                ties,
                own_ties,
                wrong,
                caused_by,
                0.0 if values is None else _off(quantizer, x, exact, values(name), None),
                wrong_constants,
                _is_informative(x, exact),
            )
        )
    if values is not None:
        off = _less_moved({check.quantizer: check.off for check in checks}, reference, values)
        checks = [replace(check, off=off[check.quantizer]) for check in checks]
    doubtful = [check.quantizer for check in checks if check.wrong]
    if not doubtful:
        return tuple(checks)
    moved = reference.moved_inputs(doubtful, PAIRS + MORE_PAIRS)
    return tuple(_less_chosen(check, reference, computed, moved) if check.wrong else check for check in checks)


def _less_chosen(
    check: LayerCheck, reference: TorchRun, computed: Callable[[str], Tensor], moved: Callable[[str], Reach]
) -> LayerCheck:
    """Counts wrong codes as ties if earlier roundings explain them by flipping data-dependent choices."""
    name, quantizer = check.quantizer, reference.quantizers[check.quantizer]
    x, exact, expected = reference.inputs[name], reference.exact[name], reference.codes[name]
    ties, wrong = _compare(quantizer, x, exact, expected, computed(name), moved(name))
    own_ties = _own_ties(quantizer, x, exact) if ties > _ties_of_any(expected.numel()) else 0
    return replace(check, ties=ties, wrong=wrong, own_ties=own_ties + check.wrong - wrong)


def _is_informative(x: Tensor, exact: Tensor) -> bool:
    """Returns whether torch's own errors, as in ``_own_ties``, are small or below the values' spread."""
    error, values = (x - exact).double(), x.double()
    if not x.numel() or not error.isfinite().all():
        return True
    error_size, spread, size = (each.square().mean().sqrt() for each in (error, values - values.mean(), values))
    return bool(FLOAT32_ERRORS * error_size <= torch.maximum(spread, DECIDED * size))


@functools.cache
def _ties_of_any(codes: int) -> int:
    """Returns how many ties any tensor may have."""
    expected = torch.tensor(TIE_SHARE * codes, dtype=torch.float64)
    counts = torch.arange(int(expected + 10 * expected.sqrt() + 20), dtype=torch.float64)
    beyond = torch.special.gammainc(counts + 1, expected)  # probability of a greater count
    return int(counts[beyond <= TIE_CHANCE][0])


def distances(reference: TorchRun, values: Callable[[str], Tensor]) -> dict[str, float]:
    """Returns the error of each quantizer's values before rounding, over what float32 explains.

    Args:
        reference: Torch's run.
        values: Returns the values that the runtime rounds, with all earlier layers fed the same
            codes.
    """
    found = {name: _distance(reference, values, name) for name in reference.quantizers}
    return _less_moved(found, reference, values)


def _distance(reference: TorchRun, values: Callable[[str], Tensor], name: str, moved: Reach | None = None) -> float:
    return _off(reference.quantizers[name], reference.inputs[name], reference.exact[name], values(name), moved)


def _less_moved(found: dict[str, float], reference: TorchRun, values: Callable[[str], Tensor]) -> dict[str, float]:
    """Rechecks values that are too far off, allowing for roundings before the quantizer.

    A function's error may be relative to its argument, as for GELU where it is almost 0, and
    roundings flip data-dependent choices.
    """
    for pairs in (PAIRS, PAIRS + MORE_PAIRS):
        doubtful = [name for name, share in found.items() if share > 1]
        if not doubtful:
            break
        moved = reference.moved_inputs(doubtful, pairs)
        found |= {name: _distance(reference, values, name, moved(name)) for name in doubtful}
    return found


def _off(quantizer: Quantizer, x: Tensor, exact: Tensor, found: Tensor, moved: Reach | None) -> float:
    """Returns the largest error of the values before rounding, over what float32 explains.

    ``moved`` is the range over which rounding can move ``x``.
    """
    rounding = rounding_of(quantizer)
    if rounding is None or not x.numel():
        return 0.0
    if found.shape != x.shape:
        return math.inf
    expected, found = cut_off(quantizer, rounding, rounding.value(x)), cut_off(quantizer, rounding, found)
    from_torch = lambda other: differences(cut_off(quantizer, rounding, rounding.value(other)), expected)  # noqa: E731
    size = expected.abs().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    explained = torch.stack([VALUE_ERRORS * from_torch(exact), *map(from_torch, moved or ())]).amax(0)
    bound = envelope(MOVE * size + explained, LEAST_GROUP)
    excess = differences(found, expected) / bound.clamp(min=torch.finfo(torch.float32).tiny)
    return float(excess.nan_to_num(nan=0.0, posinf=math.inf).amax())  # infinite on both sides: rounding decides


def _compare(
    quantizer: Quantizer, x: Tensor, exact: Tensor, expected: Tensor, actual: Tensor, moved: Reach | None = None
) -> tuple[int, int]:
    """Returns the number of ties, and the number of other codes that differ: all for another shape.

    ``moved`` is the range over which rounding can move ``x``, in addition to a small move of every
    value.
    """
    if actual.shape != expected.shape:
        return 0, max(1, expected.numel())
    differs = actual != expected
    if not differs.any():
        return 0, 0
    # Quantizers are monotonic: a small move of x reaches the codes between those of its two ends.
    reach = max(TIE_TOLERANCE * x.abs().amax(), FLOAT32_ERRORS * (x - exact).abs().amax().float())
    low, high = (x, x) if moved is None else moved
    if rounding_of(quantizer) is not None:  # elementwise: equal codes need no second look
        low, high, actual, differs = low[differs], high[differs], actual[differs], differs[differs]
    tied = differs & (quantizer.encode(low - reach) <= actual) & (actual <= quantizer.encode(high + reach))
    return int(tied.sum()), int((differs & ~tied).sum())


def _own_ties(quantizer: Quantizer, x: Tensor, exact: Tensor) -> int:
    """Returns how many codes float32 cannot decide."""
    reach = max(FOUR_ROUNDINGS * exact.abs().amax(), FLOAT32_ERRORS * (x - exact).square().mean().sqrt())
    return int((quantizer.encode(exact - reach) != quantizer.encode(exact + reach)).sum())
