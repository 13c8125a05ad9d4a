"""``wXaY`` has X and Y bits; ``mixed-wXaZ`` is what it was before; names of before are told apart."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest

from qpass import ConfigError, QuantConfig
from qpass.config.budget import BudgetConfig
from qpass.config.mixed import truthful_name
from qpass.version import __version__


@pytest.fixture(autouse=True)
def _not_yet_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpass.config.mixed._warned", [])


def warnings_of(*configs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for config in configs:
            QuantConfig.from_any(config)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("weight", range(2, 9))
@pytest.mark.parametrize("activation", range(2, 9))
def test_every_spec_of_a_preset_has_the_bits_of_its_name(weight: int, activation: int) -> None:
    config = QuantConfig.from_any(f"w{weight}a{activation}")
    specs = (config.weight, config.activation, config.post_softmax, config.network_input)
    assert [spec.bits for spec in specs] == [weight, activation, activation, 8]
    assert config.budget is None
    equal_steps = {role for role in ("weight", "activation", "network_input", "post_softmax") if is_uniform(config, role)}
    assert equal_steps == {"weight", "activation", "network_input"} | ({"post_softmax"} if activation == 8 else set())


def test_the_softmax_output_has_all_levels_of_a_shifted_logarithm() -> None:
    spec = QuantConfig.from_any("w4a4").post_softmax
    assert (spec.quantizer, spec.exponent_round, spec.tabulated, spec.criterion) == ("shift-log2", False, True, "output")
    before = QuantConfig.from_any({"preset": "w4a4", "post_softmax": {"quantizer": "uniform", "tabulated": False}})
    assert before.post_softmax.quantizer == "uniform"


def is_uniform(config: QuantConfig, role: str) -> bool:
    return bool(getattr(config, role).quantizer == "uniform")


@pytest.mark.parametrize("mean", range(3, 8))
def test_a_mixed_recipe_has_one_bit_less_or_eight(mean: int) -> None:
    config = QuantConfig.from_any(f"mixed-w4a{mean}")
    assert config.name == f"mixed-w4a{mean}"
    assert config.budget == BudgetConfig(activation_bits=mean, activation_widths=(mean - 1, 8))
    assert (config.activation.bits, config.post_softmax.bits) == (mean - 1, mean - 1)
    assert config.post_softmax.quantizer == "uniform", "only uniform codes can be of either bit width"
    plain = QuantConfig.from_any(f"w4a{mean - 1}")
    same = {"name": plain.name, "budget": None, "post_softmax": plain.post_softmax}
    assert dataclasses.replace(config, **same) == plain


@pytest.mark.parametrize("mean", [2, 8])
def test_a_mean_that_two_bit_widths_cannot_have_is_refused(mean: int) -> None:
    with pytest.raises(ConfigError, match=f"mixed-wXaZ: got {mean}; expected a mean of 3 to 7 bits"):
        QuantConfig.from_any(f"mixed-w4a{mean}")


def test_the_new_meaning_is_said_once() -> None:
    (said,) = warnings_of("w4a4", "w4a4", "w3a3", {"preset": "w6a6"})
    assert said == (
        "'w4a4' now has 4 bits everywhere but at the network's input; the recipe of before, with activations of 4 or 8 bits, is"
        " 'mixed-w4a5'"
    )


@pytest.mark.parametrize(
    ("config", "warns"),
    [
        ({"preset": "w3a3"}, True),
        ({"preset": "w4a4", "polish": "quick"}, True),
        ({"preset": "w4a4", "rules": {"head": None}}, True),
        ({"preset": "w4a4", "budget": {"weight_bits": 5}}, True),  # which kept the budget for activations before
        ({"preset": "w4a4", "budget": None}, False),
        ({"preset": "w4a4", "budget": {"activation_bits": 5}}, False),
        ({"preset": "w4a4", "budget": BudgetConfig(weight_bits=5)}, False),
        ("mixed-w4a5", False),
        ("w4a8", False),
        ("w8a8", False),
        ("aiqvit-w4a4", False),
        ({"name": "w4a4"}, False),
    ],
)
def test_what_means_the_same_as_before_is_not_warned_of(config: Any, warns: bool) -> None:
    assert len(warnings_of(config)) == warns


def test_the_warning_goes_with_version_two() -> None:
    assert __version__.startswith("0.1."), "remove warn_of_new_meaning"


def test_a_budget_beside_a_preset_chooses_between_its_bits_and_eight() -> None:
    chosen = QuantConfig.from_any({"preset": "w3a3", "budget": {"activation_bits": 4}}).budget
    assert chosen == QuantConfig.from_any("mixed-w3a4").budget
    given = QuantConfig.from_any({"preset": "w3a3", "budget": {"activation_bits": 4, "activation_widths": [2, 5]}}).budget
    assert given is not None
    assert given.activation_widths == (2, 5)


def old_config(name: str, bits: int) -> dict[str, Any]:
    """What versions before wrote of ``wXaY``."""
    budget = BudgetConfig(activation_bits=bits + 1, activation_widths=(bits, 8))
    return dataclasses.replace(QuantConfig.from_any(f"mixed-w4a{bits + 1}"), name=name, budget=budget).to_dict()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (old_config("w4a4", 4), "mixed-w4a5"),
        (old_config("w2a6", 6), "mixed-w2a7"),
        (old_config("w3a3, polish quick", 3), "mixed-w3a4, polish quick"),
        (old_config("w4a4", 3), "w4a4"),  # a budget that its user gave
        (old_config("mine", 4), "mine"),
        (old_config("aiqvit-w4a4", 4), "aiqvit-w4a4"),
        (old_config("w4a4", 4) | {"budget": None}, "w4a4"),
        (QuantConfig.from_any("mixed-w4a5").to_dict(), "mixed-w4a5"),
    ],
)
def test_names_of_before_are_told_as_they_are_now(config: dict[str, Any], name: str) -> None:
    assert truthful_name(config) == name
