"""Whether a runtime computes a layer's codes: equal, but for ties that float32 cannot decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.quantizers import Quantizer

#: A code may differ where its input, moved by this share of the tensor's greatest magnitude, takes the other code too:
#: two float32 sums of a few hundred terms, taken in another order, differ by about so much.
TIE_TOLERANCE = 2e-6
#: Where cancellation makes float32 worse than that (a LayerNorm of nearly equal values), the input may move by this many
#: times the greatest error of torch's own float32 there, measured against float64 on the same codes.
FLOAT32_ERRORS = 2.0
#: Four roundings (two dequantizations, a product, a division by the scale), as a share of the tensor's greatest magnitude:
#: where the exact value is as near as that to the edge of two codes, float32 cannot decide. Rare where values are spread;
#: few probabilities times few codes can lie there by the dozen.
FOUR_ROUNDINGS = 4 * 2.0**-24
#: Other ties may make up this share of a tensor's codes: a count of rare events scatters, so it is held to three standard
#: deviations over its expectation (and one is always allowed).
TIE_SHARE = 1e-4


@dataclass(frozen=True)
class LayerCheck:
    """Codes of one quantizer, all layers before it fed with the reference's codes.

    Attributes:
        quantizer: Name of the quantizer in the graph.
        codes: How many were compared.
        ties: Codes that differ where the input lies on the edge of two codes.
        own_ties: Codes whose input, computed in float64 from the same codes before, lies nearer to the edge of two codes than
            ``FOUR_ROUNDINGS``, or than ``FLOAT32_ERRORS`` times the root mean square of torch's own float32 errors there.
        wrong: Codes that differ otherwise.
        caused_by: The operator that computed the quantizer's input, where codes differ.
    """

    quantizer: str
    codes: int
    ties: int
    own_ties: int
    wrong: int
    caused_by: str = ""

    @property
    def passed(self) -> bool:
        """No wrong code, and few ties."""
        expected = TIE_SHARE * self.codes
        return self.wrong == 0 and self.ties <= self.own_ties + max(1, expected + 3 * math.sqrt(expected))


def check_layers(
    reference: TorchRun, computed: Mapping[str, Tensor], cause: Callable[[str], str] = lambda quantizer: ""
) -> tuple[LayerCheck, ...]:
    """Compares what a runtime made of a forced file, fed with torch's codes, with what torch made of them.

    Args:
        reference: Torch's run.
        computed: The codes of each quantizer by the runtime.
        cause: Names the operator that computes what a quantizer is given.
    """
    checks = []
    for name, quantizer in reference.quantizers.items():
        expected = reference.codes[name]
        x, exact = reference.inputs[name], reference.exact[name]
        ties, wrong = _compare(quantizer, x, exact, expected, computed[name])
        caused_by = cause(name) if ties or wrong else ""
        own_ties = _own_ties(quantizer, x, exact) if ties else 0
        checks.append(LayerCheck(name, expected.numel(), ties, own_ties, wrong, caused_by))
    return tuple(checks)


def _compare(quantizer: Quantizer, x: Tensor, exact: Tensor, expected: Tensor, actual: Tensor) -> tuple[int, int]:
    """Returns how many codes differ on ties, and how many otherwise."""
    differs = actual != expected
    if not differs.any():
        return 0, 0
    # Quantizers are monotone: the codes within reach of a small move of x are those between the codes of its ends.
    reach = max(TIE_TOLERANCE * x.abs().amax(), FLOAT32_ERRORS * (x - exact).abs().amax().float())
    low, high = quantizer.encode(x - reach), quantizer.encode(x + reach)
    tied = differs & (low <= actual) & (actual <= high)
    return int(tied.sum()), int((differs & ~tied).sum())


def _own_ties(quantizer: Quantizer, x: Tensor, exact: Tensor) -> int:
    """Returns how many codes float32 cannot decide."""
    reach = max(FOUR_ROUNDINGS * exact.abs().amax(), FLOAT32_ERRORS * (x - exact).square().mean().sqrt())
    return int((quantizer.encode(exact - reach) != quantizer.encode(exact + reach)).sum())
