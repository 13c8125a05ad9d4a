"""Recipes without zero points: what they make of each tensor, and which recipes have no such form."""

from __future__ import annotations

from typing import Any

import pytest

from qpass.config import QuantConfig
from qpass.config.signed_codes import signed_spec
from qpass.config.spec import QuantSpec
from qpass.errors import ConfigError


def signed(**fields: Any) -> QuantConfig:
    return QuantConfig.from_any({"preset": "w8a8", "signed_codes": True, **fields})


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, False)])
def test_only_weights_below_eight_bits_keep_zero_points(bits: int, symmetric: bool) -> None:
    config = signed(rules={"head": {"weight": {"bits": bits, "symmetric": False}}})
    assert config.resolve("head", "weight").symmetric == symmetric
    for role in ("activation", "post_softmax"):
        spec = config.resolve("head", role)
        assert (spec.bits, spec.symmetric) == (8, True)
    assert config.resolve("head", "activation", reads_network_input=True).symmetric
    assert QuantConfig.from_any(config.to_dict()) == config


def test_what_a_rule_leaves_in_float_stays_float() -> None:
    config = signed(rules={"head": None, "neck": {"activation": None}})
    assert config.resolve("head", "weight") is None
    assert config.resolve("neck", "activation") is None
    assert config.resolve("neck", "weight").symmetric


def test_a_spec_that_is_not_uniform_is_left_for_the_check() -> None:
    table = QuantSpec(bits=4, quantizer="codebook")
    assert signed_spec(table, "weight") == table


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "w4a4"}, "^activation: 4 bits with signed_codes; expected 8: TensorRT"),
        ({"preset": "codebook-w4a8"}, "^weight: quantizer='codebook' with signed_codes; expected 'uniform'"),
        ({"preset": "repq-vit-w8a8"}, "^post_softmax: quantizer='log-sqrt2' with signed_codes.*take w8a8 or w4a8"),
        ({"preset": "mixed-w4a5"}, "^budget: a budget with signed_codes; leave it out"),
        ({"weight": {"bits": 3, "residual_rank": 4}}, "^weight: residual_rank=4 with signed_codes"),
        ({"network_input": {"bits": 6}}, "^network_input: 6 bits with signed_codes"),
        ({"rules": {"blocks.*": {"post_softmax": {"bits": 4}}}}, r"^rule 'blocks\.\*', post_softmax: 4 bits with signed_codes"),
        ({"rules": {"head": {"weight": {"quantizer": "codebook", "symmetric": False}}}}, "^rule 'head', weight: quantizer="),
    ],
)
def test_recipes_without_such_a_form_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        signed(**fields)
