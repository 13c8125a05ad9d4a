from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass import ConfigError, QuantConfig, QuantSpec
from qpass.config.budget import BudgetConfig
from qpass.config.preset_table import preset_rows
from qpass.config.presets import PRESETS
from qpass.config.reconstruction import ReconstructionConfig
from qpass.config.rule_text import float_rule, merged_rules, tensor_rules
from qpass.config.widening import wider_changes, wider_specs


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_yaml(name: str, tmp_path: Path) -> None:
    config = QuantConfig.from_any(name).with_rules({"head": {"weight": {"bits": 8}}}, {"blocks.0.*": None})
    config.to_yaml(tmp_path / "config.yaml")
    again = QuantConfig.from_any(tmp_path / "config.yaml")
    assert again == config
    assert again.to_yaml() == config.to_yaml()


@pytest.mark.parametrize(
    ("name", "weight", "activation", "softmax"),
    [("w8a8", 8, 8, 8), ("w4a8", 4, 8, 8), ("repq-vit-w3a5", 3, 5, 5), ("ias-vit-w4a4", 4, 4, 4), ("w2a7", 2, 7, 7)],
)
def test_a_preset_has_the_bits_of_its_name(name: str, weight: int, activation: int, softmax: int) -> None:
    config = QuantConfig.from_any(name)
    assert config.weight.bits == weight
    assert config.activation.bits == activation
    assert config.post_softmax.bits == softmax
    assert config.network_input.bits == 8


def test_repq_vit_is_the_paper() -> None:
    config = QuantConfig.from_any("repq-vit-w4a4")
    assert config.post_softmax.quantizer == "log-sqrt2"
    assert config.fold_layer_norm == "mean"
    assert config.calibrate_on == "quantized"
    assert config.activation.percentiles == (0.999, 0.9999, 0.99999)


def test_ias_vit_is_the_paper() -> None:
    config = QuantConfig.from_any({"preset": "ias-vit-w4a4", "schedule": "full"})
    assert (config.post_softmax.quantizer, config.post_softmax.exponent_round) == ("shift-log2", True)
    assert (config.fold_layer_norm, config.range_samples) == ("mean", 64)
    learning = config.reconstruction
    assert learning is not None
    assert (learning.order, learning.weights, learning.inputs, learning.loss) == ("three-stage", "full", "quantized", "squared")
    assert (learning.steps, learning.batch_size, learning.learning_rate) == (1000, 64, 4e-5)
    assert not learning.curriculum
    assert learning.scale_learning_rate == 0
    six = QuantConfig.from_any({"preset": "ias-vit-w6a6", "schedule": "full"}).reconstruction
    assert six is not None
    assert six.steps == 200


def test_dopq_vit_folds_to_the_median_and_learns_as_ias_vit_does() -> None:
    config, other = QuantConfig.from_any("dopq-vit-w3a3"), QuantConfig.from_any("ias-vit-w3a3")
    assert (config.post_softmax.quantizer, config.post_softmax.criterion) == ("tan", "output")
    assert config.fold_layer_norm == "median"
    assert config.reconstruction == other.reconstruction


def test_a_polish_starts_from_the_closed_form() -> None:
    plain, polished = QuantConfig.from_any("w4a4"), QuantConfig.from_any({"preset": "w4a4", "polish": "quick"})
    assert polished.reconstruction is not None
    assert polished.reconstruction.order == "fold-first"
    assert polished.name == "w4a4, polish quick"
    same = dataclasses.replace(polished, name="w4a4", reconstruction=None, range_samples=None)
    assert same == plain


@pytest.mark.parametrize("budget", [{"activation_bits": 5}, {"file_mb": 2.5, "weight_widths": [3, 4, 8], "samples": 16}])
def test_a_budget_survives_yaml(budget: dict[str, object], tmp_path: Path) -> None:
    config = QuantConfig.from_any({"preset": "mixed-w4a5", "budget": budget})
    config.to_yaml(tmp_path / "config.yaml")
    assert QuantConfig.from_any(tmp_path / "config.yaml") == config
    assert config.budget is not None
    assert config.budget.activation_bits == 5, "what the preset has and the change does not name stays"


def test_aiqvit_is_the_paper_and_its_schedules_differ_in_length_only() -> None:
    quick, full = QuantConfig.from_any("aiqvit-w4a4"), QuantConfig.from_any({"preset": "aiqvit-w4a4", "schedule": "full"})
    assert quick.post_softmax.quantizer == "dynamic-focus"
    assert full.reconstruction is not None
    assert quick.reconstruction is not None
    assert full.reconstruction.ranks == (10, 20, 50, 100, 150)
    assert (full.reconstruction.search_steps, full.reconstruction.steps, full.reconstruction.batch_size) == (2000, 6000, 24)
    assert full.reconstruction.curriculum
    assert full.reconstruction.curriculum_start == 0.5
    changed = {"search_steps", "steps", "batch_size", "curriculum_interval"}
    for field in dataclasses.fields(full.reconstruction):
        same = getattr(full.reconstruction, field.name) == getattr(quick.reconstruction, field.name)
        assert same or field.name in changed, field.name


def test_aiqvit_lsq_is_aiqvit_with_learned_scales() -> None:
    paper, ours = QuantConfig.from_any("aiqvit-w3a3"), QuantConfig.from_any("aiqvit-lsq-w3a3")
    assert paper.reconstruction is not None
    assert ours.reconstruction is not None
    assert paper.reconstruction.scale_learning_rate == 0
    assert ours.reconstruction.scale_learning_rate > 0
    same = dataclasses.replace(ours.reconstruction, scale_learning_rate=0.0)
    assert dataclasses.replace(ours, name=paper.name, reconstruction=same) == paper


def test_one_setting_of_the_learning_can_be_changed() -> None:
    config = QuantConfig.from_any({"preset": "aiqvit-w4a4", "reconstruction": {"steps": 7}})
    assert config.reconstruction is not None
    assert (config.reconstruction.steps, config.reconstruction.batch_size) == (7, 32)
    assert QuantConfig.from_any({"preset": "aiqvit-w4a4", "reconstruction": None}).reconstruction is None


def test_a_later_rule_wins_and_null_is_float() -> None:
    config = QuantConfig.from_any("w4a4").with_rules(
        {"blocks.*": {"weight": {"bits": 6}}}, {"blocks.1.*": {"weight": {"bits": 8}, "activation": None}}, {"head": None}
    )
    assert config.resolve("blocks.0.fc1", "weight").bits == 6
    assert config.resolve("blocks.1.fc1", "weight").bits == 8
    assert config.resolve("blocks.1.fc1", "activation") is None
    assert config.resolve("head", "weight") is None
    assert config.resolve("patch_embed", "weight").bits == 4


def test_the_network_input_has_its_own_spec() -> None:
    config = QuantConfig.from_any("w4a4")
    assert config.resolve("patch_embed.proj", "activation", reads_network_input=True).bits == 8
    assert config.resolve("patch_embed.proj", "activation").bits == 4


def test_configs_cannot_be_changed_and_take_names_only() -> None:
    with pytest.raises(AttributeError):
        QuantSpec().bits = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        QuantSpec(4)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantConfig.from_any("w4a"), r"no preset is called 'w4a'; did you mean 'w4a[48]'\?"),
        (lambda: QuantConfig.from_any("repq-vit-w4a9"), "did you mean 'repq-vit-w4a"),
        (lambda: QuantConfig.from_any({"wieght": {"bits": 4}}), r"unknown key 'wieght'; did you mean 'weight'\?"),
        (lambda: QuantConfig.from_any({"weight": {"bit": 4}}), r"weight: unknown key 'bit'; did you mean 'bits'\?"),
        (lambda: QuantConfig.from_any({"weight": {"bits": 9}}), r"weight.bits: got 9; expected a whole number from 2 to 8"),
        (lambda: QuantSpec(bits=1), "bits: got 1"),
        (lambda: QuantSpec(bits=4.0), "bits: got 4.0"),
        (lambda: QuantSpec(bits=True), "bits: got True"),
        (lambda: QuantSpec(quantizer="log3"), r"unknown quantizer 'log3'; did you mean 'log2'\?"),
        (lambda: QuantSpec(quantizer="log2", symmetric=True), "symmetric=True does not go with quantizer='log2'"),
        (lambda: QuantSpec(percentiles=(0.3,)), "percentiles"),
        (lambda: QuantSpec(criterion="outputs"), r"did you mean 'output'\?"),
        (lambda: QuantConfig(fold_layer_norm="meen"), r"did you mean 'mean'\?"),
        (lambda: QuantConfig(calibrate_on="quantised"), r"did you mean 'quantized'\?"),
        (lambda: QuantSpec(code_zero="snap"), r"did you mean 'snapped'\?"),
        (lambda: QuantConfig(activation=QuantSpec(quantizer="dynamic-focus")), "activation: quantizer='dynamic-focus'"),
        (lambda: QuantConfig(activation=QuantSpec(quantizer="tan")), "activation: quantizer='tan'"),
        (lambda: QuantSpec(tabulated=True), "tabulated=True does not go with quantizer='uniform'"),
        (
            lambda: QuantConfig(pointwise_convolutions="weight"),
            r"pointwise_convolutions: got 'weight'; did you mean 'weights'\?",
        ),
        (lambda: QuantSpec(residual_rank=-1), "residual_rank: got -1; expected a whole number"),
        (lambda: QuantConfig(activation=QuantSpec(residual_rank=4)), "activation: residual_rank above 0"),
        (lambda: QuantConfig(range_samples=0), "range_samples: got 0; expected a whole number above 0"),
        (lambda: QuantConfig(reconstruction=5), "reconstruction: got 5"),
        (
            lambda: QuantConfig.from_any({"preset": "aiqvit-w4a4", "schedule": "quik"}),
            r"schedule: got 'quik'; did you mean 'quick'\?",
        ),
        (lambda: QuantConfig.from_any({"preset": "w4a4", "schedule": "full"}), "schedule: 'w4a4' learns nothing"),
        (lambda: QuantConfig.from_any({"schedule": "full"}), "schedule: needs a preset"),
        (lambda: QuantConfig.from_any({"polish": "quick"}), "polish: needs a preset"),
        (lambda: QuantConfig.from_any({"preset": "w4a4", "polish": "quik"}), r"polish: got 'quik'; did you mean 'quick'\?"),
        (lambda: QuantConfig.from_any({"preset": "aiqvit-w4a4", "polish": "quick"}), "polish: 'aiqvit-w4a4' already learns"),
        (lambda: QuantConfig.from_any({"budget": {}}), "budget: no limit is given; expected one of activation_bits"),
        (lambda: QuantConfig.from_any({"budget": {"bits": 4}}), r"budget: unknown key 'bits'; did you mean '\w*_bits'\?"),
        (lambda: QuantConfig.from_any({"budget": {"file_mb": "3"}}), "budget.file_mb: got '3'; expected a number above 0"),
        (
            lambda: QuantConfig.from_any({"budget": {"weight_bits": 3, "weight_widths": [1, 4]}}),
            r"budget.weight_widths: got \[1, 4\]; expected whole numbers from 2 to 8",
        ),
        (lambda: QuantConfig.from_any({"budget": {"weight_bits": 3, "samples": 0}}), "budget.samples: got 0"),
        (lambda: QuantConfig(budget=5), "budget: got 5; expected a BudgetConfig or None"),
        (
            lambda: QuantConfig.from_any({"reconstruction": {"stepps": 5}}),
            r"reconstruction: unknown key 'stepps'; did you mean 'steps'\?",
        ),
        (lambda: ReconstructionConfig(weights="lowrank"), r"reconstruction.weights: got 'lowrank'; did you mean 'low-rank'\?"),
        (lambda: ReconstructionConfig(steps=0), "reconstruction.steps: got 0; expected a whole number above 0"),
        (lambda: ReconstructionConfig(search_steps=0), "5 ranks and no step to search them"),
        (lambda: ReconstructionConfig(ranks=()), r"reconstruction.ranks: got \(\)"),
        (lambda: ReconstructionConfig(learning_rate=0), "reconstruction.learning_rate: got 0"),
        (lambda: ReconstructionConfig(drop_path=1.0), "reconstruction.drop_path: got 1.0"),
        (lambda: QuantConfig(weight=QuantSpec(quantizer="log2")), "weight: quantizer='log2' on weights"),
        (lambda: QuantConfig(activation=QuantSpec(criterion="output")), "activation: criterion='output'"),
        (lambda: QuantConfig(activation=None), "activation: got None; expected a QuantSpec"),
        (lambda: QuantConfig.from_any("w4a4").with_rules({"head": {"weights": {"bits": 8}}}), r"did you mean 'weight'\?"),
        (
            lambda: QuantConfig.from_any("w4a4").with_rules({"head": {"weight": {"bits": 12}}}),
            "rule 'head', weight.bits: got 12",
        ),
        (lambda: QuantConfig.from_any("w4a4").with_rules({"head": 8}), "rule 'head': got 8"),
        (lambda: QuantConfig.from_any(7), "config: got int"),
        (lambda: QuantConfig.from_any("missing.yaml"), "missing.yaml: cannot be read"),
    ],
)
def test_bad_values_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds no mapping"):
        QuantConfig.from_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        QuantConfig.from_yaml(tmp_path / "b.yaml")


def test_yaml_that_gives_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rules:\n  head: null\n  head: {weight: {bits: 8}}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: has the key 'head' twice"):
        QuantConfig.from_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [head]", "rules: got 'head'; expected a mapping"),
        ("rules: head", "rules: got 'head'"),
        ("rules: 5", "rules: got 5"),
        ("rules: [[head, null, null]]", "rules: got"),
        ("rules: [{1.10: null}]", "rules: got 1.1; expected a pattern on module paths; put it in quotes"),
        ("rules: {head: {weight: 8}}", "rule 'head', weight: got 8; expected a mapping such as"),
        ("rules: {head: [weight]}", "rule 'head': got"),
        ("rules: {head: {weight: {[1]: 2}}}", "cannot be read"),
        ("reconstruction: {learning_rate: 1e-3}", "got '1e-3'; .* YAML reads 1e-3 as text and 1.0e-3 as a number"),
        ("preset: [w8a8]", "preset: got"),
        ("preset: this.yaml", "no preset is called 'this.yaml'"),
        ("{preset: aiqvit-w4a4, schedule: [full]}", "schedule: got"),
        ("{preset: w4a4, polish: {a: 1}}", "polish: got"),
        ("name: 2026-01-01", "name: got datetime.date"),
        ("1: 2", "unknown key 1"),
        ("weight: null", "weight: got None"),
        ("'just text'", "holds no mapping"),
        ("", "holds no mapping"),
    ],
)
def test_odd_yaml_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "this.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        QuantConfig.from_any(tmp_path / "this.yaml")


@pytest.mark.parametrize("pattern", ["head", "blocks.[01].*", "[!a]*", "*.attn", "a?[.]x"])
@pytest.mark.parametrize(
    ("role", "change", "message"),
    [
        ("weight", {"bits": 99}, "bits: got 99"),
        ("activation", {"symmetric": "no"}, "symmetric: got 'no'; expected true or false"),
        ("activation", {"percentiles": "abc"}, "percentiles: got 'abc'"),
        ("activation", {"quantizer": "dynamic-focus"}, "quantizer='dynamic-focus'; expected 'uniform'"),
        ("activation", {"quantizer": "log2"}, "quantizer='log2'; expected 'uniform'"),
        ("activation", {"criterion": "output"}, "criterion='output'; expected 'tensor'"),
        ("activation", {"residual_rank": 4}, "residual_rank above 0"),
        ("weight", {"quantizer": "log-sqrt2"}, "quantizer='log-sqrt2' on weights"),
        ("weight", {"criterion": "output"}, "criterion='output'; expected 'tensor'"),
        ("post_softmax", {"residual_rank": 4}, "residual_rank above 0"),
        ("post_softmax", {"quantizer": "uniform", "tabulated": True}, "tabulated=True does not go with quantizer='uniform'"),
    ],
)
def test_a_rule_gives_what_the_role_allows(pattern: str, role: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        QuantConfig.from_any("repq-vit-w4a4").with_rules({"*": None}, {pattern: {role: change}})
    assert f"rule {pattern!r}, {role}" in str(raised.value)


def test_rules_are_checked_together_where_they_meet() -> None:
    """Either is valid alone, and only some paths match both."""
    config = QuantConfig().with_rules(
        {"*.0.*": {"post_softmax": {"quantizer": "log2"}}}, {"blocks.*": {"post_softmax": {"symmetric": True}}}
    )
    with pytest.raises(ConfigError, match="symmetric=True does not go with quantizer='log2'"):
        config.resolve("blocks.0.attn", "post_softmax")
    assert config.resolve("blocks.1.attn", "post_softmax") == QuantSpec(symmetric=True)


def test_what_is_excluded_stays_float_whatever_the_rules_say() -> None:
    config = QuantConfig.from_any("w4a4").with_rules({"head": {"weight": {"bits": 8}}})
    without = config.excluding(["head", "blocks.0.*"])
    assert [without.resolve(path, "weight") for path in ("head", "blocks.0.mlp.fc1")] == [None, None]
    assert without.resolve("blocks.1.mlp.fc1", "weight") == config.weight
    assert config.excluding("head") == config.excluding(["head"])
    assert config.excluding(()) is config
    with pytest.raises(ConfigError, match="rules: got 3; expected a pattern on module paths"):
        config.excluding([3])  # type: ignore[list-item]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("role", ["weight", "activation", "post_softmax"])
def test_what_is_wider_is_a_valid_rule_with_more_bits(name: str, role: str) -> None:
    config = QuantConfig.from_any({"preset": name})
    spec = getattr(config, role)
    specs = wider_specs(role, spec)
    assert list(specs) == sorted(specs)
    assert specs.pop(spec.bits) == spec
    assert max([*specs, spec.bits]) == 8
    for bits, change in wider_changes(role, spec).items():
        resolved = config.with_rules(*tensor_rules([("a[0].b", role)], change)).resolve("a[0].b", role)
        assert resolved == specs[bits]
        assert resolved.bits == bits


def test_rules_for_one_layer_are_merged() -> None:
    rules = [
        *tensor_rules([("a", "weight"), ("b", "weight")], {"bits": 6}),
        *tensor_rules([("a", "weight"), ("a", "activation")], {"bits": 8}),
        float_rule("c", "weight"),
        float_rule("b"),
        *tensor_rules([("b", "weight")], {"bits": 8}),
    ]
    assert merged_rules(rules) == [
        {"a": {"weight": {"bits": 8}, "activation": {"bits": 8}}},
        {"b": None},
        {"c": {"weight": None}},
    ]


def test_the_table_of_presets_has_each_with_what_its_config_says() -> None:
    rows = {row.name: row for row in preset_rows()}
    assert tuple(rows) == PRESETS
    for name, row in rows.items():
        config = QuantConfig.from_any({"preset": name})
        assert row.weights.startswith(f"{config.weight.bits} bits")
        assert row.learns == (config.reconstruction is not None)
    assert rows["w4a4"].softmax == "4 bits, shift-log2"
    assert rows["mixed-w4a5"].activations == "4 or 8 bits, 5 on average"
    assert rows["codebook-w4a8"].weights == "4 bits, codebook"
    assert rows["w8a8"].activations == "8 bits"
    assert "2502.04628" in rows["aiqvit-w4a4"].about


def test_a_rule_does_not_follow_what_its_caller_changes_later() -> None:
    change: dict[str, Any] = {"weight": {"bits": 6, "percentiles": [0.9, 1.0]}}
    config = QuantConfig().with_rules({"head": change})
    change["weight"]["bits"] = 99
    assert config.resolve("head", "weight").bits == 6
    assert QuantConfig.from_any(config.to_dict()) == config


#: Values that are wrong for most fields: of other types, out of range, no numbers, or not hashable.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(min_value=10**9),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["no", "0.9", "4", "1e-3", "null", b"8", 1j, object(), {}, [], (), {1}, [[1]], {"a": 1}, "\ud800", print]),
    st.lists(st.one_of(st.integers(-1, 9), st.floats(), st.text(max_size=2), st.booleans()), max_size=3),
)


def _count(least: int, greatest: int = 2**31 - 1) -> Any:
    return lambda v: type(v) is int and least <= v <= greatest


def _real(fits: Any) -> Any:
    return lambda v: type(v) in (int, float) and math.isfinite(v) and fits(v)


def _list(fits: Any) -> Any:
    return lambda v: type(v) in (list, tuple) and len(v) > 0 and all(map(fits, v))


def _or_none(fits: Any) -> Any:
    return lambda v: v is None or fits(v)


def _flag(v: Any) -> bool:
    return v is True or v is False


def _never(v: Any) -> bool:
    return False


def _is_none(v: Any) -> bool:
    return v is None


#: By class and field, what is valid, stated apart from the code that checks it.
VALID: dict[type, dict[str, Any]] = {
    QuantSpec: {
        "bits": _count(2, 8),
        "quantizer": _never,
        "symmetric": _flag,
        "percentiles": _list(_real(lambda p: 0.5 < p <= 1)),
        "criterion": _never,
        "code_zero": _never,
        "exponent_round": _flag,
        "tabulated": lambda v: v is False,
        "residual_rank": _count(0),
        "channels_per_table": _count(0),
    },
    ReconstructionConfig: {
        **dict.fromkeys(("weights", "inputs", "order", "loss", "precision"), _never),
        "ranks": _list(_count(1)),
        "search_steps": _count(1),
        **dict.fromkeys(("steps", "batch_size", "curriculum_interval"), _count(1)),
        **dict.fromkeys(("learning_rate", "architecture_learning_rate"), _real(lambda v: v > 0)),
        **dict.fromkeys(
            ("focus_learning_rate", "scale_learning_rate", "norm_learning_rate", "output_weight"), _real(lambda v: v >= 0)
        ),
        "focus_starts": lambda v: v in ([], ()) or _list(_real(lambda one: 0 <= one < 1))(v),
        "drop_path": _real(lambda v: 0 <= v < 1),
        "validation_share": _real(lambda v: 0 < v < 1),
        **dict.fromkeys(("curriculum", "ends"), _flag),
        "curriculum_start": _real(lambda v: 0 <= v <= 1),
        "patience": _or_none(_count(1)),
    },
    BudgetConfig: {
        "activation_bits": _real(lambda v: v > 0),
        "weight_bits": _or_none(_real(lambda v: v > 0)),
        "file_mb": _or_none(_real(lambda v: v > 0)),
        "activation_widths": _list(_count(2, 8)),
        "weight_widths": _list(_count(2, 8)),
        "samples": _count(1),
    },
    QuantConfig: {
        "name": lambda v: type(v) is str and not any("\ud800" <= c <= "\udfff" for c in v),
        **dict.fromkeys(("weight", "activation", "post_softmax", "network_input"), _never),
        "fold_layer_norm": _is_none,
        **dict.fromkeys(
            ("every_softmax", "rotate_heads", "rotate_residual", "scale_channels", "fused_attention", "compensate_activations"),
            _flag,
        ),
        "signed_codes": _flag,
        **dict.fromkeys(("convolutions", "pointwise_convolutions", "weight_rounding", "token_weights", "calibrate_on"), _never),
        "rules": lambda v: v is None or v in ([], (), {}),
        **dict.fromkeys(("budget", "reconstruction"), _is_none),
        "range_samples": _or_none(_count(1)),
    },
}
FIELDS = [(kind, name) for kind, fields in VALID.items() for name in fields]


def test_every_field_is_tried() -> None:
    for kind, fields in VALID.items():
        assert {field.name for field in dataclasses.fields(kind)} == set(fields), kind


def _kept(name: str, value: Any) -> Any:
    """Returns a valid value as a config holds it."""
    if name == "rules":
        return tuple(value or ())
    if name.endswith("_widths"):
        return tuple(sorted(set(value)))
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(("kind", "name"), FIELDS)
@given(value=JUNK)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_any_value_is_valid_or_refused_by_the_name_of_its_field(kind: type, name: str, value: Any) -> None:
    given_fields = {"activation_bits": 5, name: value} if kind is BudgetConfig else {name: value}
    section = {QuantSpec: ("weight",), ReconstructionConfig: ("reconstruction",), BudgetConfig: ("budget",)}.get(kind, ())
    mapping: Any = given_fields
    for key in section:
        mapping = {key: mapping}
    if VALID[kind][name](value):
        assert getattr(kind(**given_fields), name) == _kept(name, value)
        assert QuantConfig.from_any(mapping)
        return
    with pytest.raises(ConfigError) as direct:
        kind(**given_fields)
    assert (name if name != "rules" else "rule") in str(direct.value)
    if not (kind is QuantConfig and isinstance(value, dict)):
        with pytest.raises(ConfigError, match=name):
            QuantConfig.from_any(mapping)


@pytest.mark.parametrize("role", ["weight", "activation", "post_softmax"])
@given(name=st.sampled_from(sorted(VALID[QuantSpec])), value=JUNK)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_any_value_in_a_rule_is_valid_or_refused_by_the_name_of_its_field(role: str, name: str, value: Any) -> None:
    make = lambda: QuantConfig.from_any({"preset": "w8a8", "rules": [{"blocks.[01].*": {role: {name: value}}}]})  # noqa: E731
    if VALID[QuantSpec][name](value) and not (name == "residual_rank" and role != "weight" and value):
        assert getattr(make().resolve("blocks.1.fc1", role), name) == (tuple(value) if isinstance(value, list) else value)
    else:
        with pytest.raises(ConfigError, match=name):
            make()


@given(JUNK)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_what_is_no_recipe_is_refused(value: Any) -> None:
    if value == {}:
        return
    with pytest.raises(ConfigError):
        QuantConfig.from_any(value)


def test_codebooks_are_for_every_role_below_eight_bits_and_have_no_branch() -> None:
    free = {"quantizer": "codebook", "symmetric": False, "bits": 3}
    config = QuantConfig.from_any({"preset": "w8a8", **dict.fromkeys(("weight", "activation", "post_softmax"), free)})
    assert {config.weight.quantizer, config.activation.quantizer, config.post_softmax.quantizer} == {"codebook"}
    assert QuantConfig.from_any(config.to_dict()) == config
    for change, match in (
        ({"residual_rank": 4}, "residual_rank=4 does not go with"),
        ({"symmetric": True}, "symmetric=True does not go with"),
        ({"tabulated": True}, "tabulated=True does not go with"),
        ({"channels_per_table": -1}, "got -1"),
    ):
        with pytest.raises(ConfigError, match=match):
            QuantSpec(**{**free, **change})


@pytest.mark.parametrize("weight_bits", [2, 3, 8])
@pytest.mark.parametrize("activation_bits", [3, 4, 8])
def test_codebook_recipes_have_free_levels_below_eight_bits(weight_bits: int, activation_bits: int) -> None:
    config = QuantConfig.from_any(f"codebook-w{weight_bits}a{activation_bits}")
    for spec, bits in ((config.weight, weight_bits), (config.activation, activation_bits)):
        assert (spec.bits, spec.quantizer) == (bits, "uniform" if bits == 8 else "codebook")
    assert config.post_softmax.quantizer == config.activation.quantizer
    assert config.network_input.quantizer == "uniform"
    for changes_weights in (config.fold_layer_norm is not None, config.rotate_heads, config.rotate_residual):
        assert changes_weights == (activation_bits < 8)
    assert config.budget is None


def test_changes_replace_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("preset: w4a4\n")
    assert QuantConfig.from_yaml(tmp_path / "a.yaml", polish="quick") == QuantConfig.from_any(
        {"preset": "w4a4", "polish": "quick"}
    )
