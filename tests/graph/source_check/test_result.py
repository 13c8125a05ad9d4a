"""When a comparison with the model proves something, and what it says if not."""

from __future__ import annotations

import pytest

from qpass.graph.source_check import SourceCheck


@pytest.mark.parametrize(
    ("bound", "valued", "informative", "said"),
    [
        (3e-5, True, True, ""),
        (1.0, True, False, "roundings alone change an output by as much as its size"),
        (3e-5, False, False, "an output is NaN or infinite throughout"),
    ],
)
def test_a_bound_as_large_as_an_output_proves_nothing(bound: float, valued: bool, informative: bool, said: str) -> None:
    check = SourceCheck(samples=4, error=1e-6, bound=bound, passes=("trace", "canonicalize"), valued=valued)
    assert check.informative == informative
    assert "error 1.0e-06" in str(check)
    assert "4 samples, after trace, canonicalize" in str(check)
    assert ("not informative" in str(check)) != informative
    assert said in str(check)
