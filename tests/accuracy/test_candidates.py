"""Candidates: each has all of the one before it, and what gains most for its cost comes first."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qpass.accuracy.candidates import MOST_OF_A_STAGE, candidates_of, check_preference
from qpass.config import QuantConfig
from qpass.errors import ConfigError
from qpass.passes.analysis.tensor_sensitivity import Sensitivity, TensorSensitivity

RECIPE = QuantConfig.from_any({"preset": "w4a4"})
WIDER = {5: {"bits": 5}, 6: {"bits": 6, "symmetric": True}, 8: {"bits": 8, "symmetric": True}}


def weight(path: str, size: int, *errors: float) -> TensorSensitivity:
    return TensorSensitivity(((path, "weight"),), 4, size, dict(zip((4, 5, 6, 8), errors, strict=True)), WIDER)


def activation(paths: str, size: int, narrow: float, wide: float) -> TensorSensitivity:
    members = tuple((path, "activation") for path in paths)
    return TensorSensitivity(members, 4, size, {4: narrow, 8: wide}, {8: {"bits": 8}})


@pytest.fixture
def found() -> Sensitivity:
    """Layers a to d; a and b read one activation; c's weight loses most, d's is large."""
    return Sensitivity(
        (
            activation("ab", 2000, 0.04, 0.001),
            activation("c", 1000, 0.01, 0.001),
            activation("d", 4000, 0.02, 0.001),
            weight("a", 1000, 0.02, 0.008, 0.003, 0.0002),
            weight("b", 1000, 0.01, 0.004, 0.0015, 0.0001),
            weight("c", 1000, 0.2, 0.08, 0.03, 0.02),
            weight("d", 4000, 0.1, 0.04, 0.01, 0.0005),
        ),
        {"a": 1000, "b": 1000, "c": 1000, "d": 4000},
    )


def specs(config: QuantConfig) -> dict[tuple[str, str], int]:
    """Bits of each tensor; 32 in float."""
    found = {(path, role): config.resolve(path, role) for path in "abcd" for role in ("weight", "activation")}
    return {key: 32 if spec is None else spec.bits for key, spec in found.items()}


@pytest.mark.parametrize("prefer", ["size", "speed"])
def test_bits_only_grow_from_the_recipe_to_8_and_to_float(found: Sensitivity, prefer: str) -> None:
    candidates, widest = candidates_of(found, prefer)
    bits = [specs(candidate.config(RECIPE)) for candidate in candidates]
    assert set(bits[0].values()) == {4}
    assert set(bits[widest].values()) == {8}
    for before, after in pairwise(bits):
        assert all(after[key] >= before[key] for key in before)
        assert after != before
    floats = {path for (path, _), width in bits[-1].items() if width == 32}
    assert floats == {"c", "a", "b"}, "d alone is more than half of it; a and b stay float together"
    assert candidates[widest].config(RECIPE).resolve("a", "weight").symmetric is True  # type: ignore[union-attr]
    assert len({candidate.label for candidate in candidates}) == len(candidates)


def test_the_preference_says_which_tensors_come_first(found: Sensitivity) -> None:
    made = {prefer: [specs(c.config(RECIPE)) for c in candidates_of(found, prefer)[0]] for prefer in ("size", "speed")}
    assert made["size"][1] == made["speed"][1]
    assert made["size"][1]["c", "weight"] > 4, "it loses most"
    first = {role: {key: 8 for key in made["size"][0] if key[1] == role} for role in ("weight", "activation")}
    small = next(bits for bits in made["size"] if first["activation"].items() <= bits.items())
    fast = next(bits for bits in made["speed"] if first["weight"].items() <= bits.items())
    assert small["d", "weight"] < 8, "activations take no bytes"
    assert fast["d", "activation"] == 4, "weights take no time"


def test_what_is_at_8_bits_goes_straight_to_float() -> None:
    sizes = {"a": 40, "b": 35, "c": 25}
    tensors = tuple(TensorSensitivity(((path, "weight"),), 8, size, {8: 0.01 * size**2}, {}) for path, size in sizes.items())
    candidates, widest = candidates_of(Sensitivity(tensors, sizes), "speed")
    assert widest == 0
    assert [candidate.label for candidate in candidates] == ["the recipe as it is", "step 1: 1 layer in float"]
    assert candidates[1].rules == ({"a": None},)


def test_many_tensors_make_few_candidates() -> None:
    tensors = tuple(weight(f"l{n}", 100 + n, 0.4 / (n + 1), 0.1 / (n + 1), 0.02 / (n + 1), 0.001 / (n + 1)) for n in range(60))
    candidates, widest = candidates_of(Sensitivity(tensors, {f"l{n}": 100 for n in range(60)}), "size")
    assert MOST_OF_A_STAGE // 2 < widest <= MOST_OF_A_STAGE
    assert candidates[widest].label == f"step {widest}: 60 tensors wider"
    assert "l59" in str(candidates[widest].rules)


def test_an_unknown_preference_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefer: got 'sped'; did you mean 'speed'"):
        check_preference("sped")
