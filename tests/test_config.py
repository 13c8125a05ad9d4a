from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qpass import ConfigError, QuantConfig, QuantSpec
from qpass.presets import PRESETS
from qpass.reconstruction_config import ReconstructionConfig


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
    config = QuantConfig.from_any({"preset": "w4a4", "budget": budget})
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
        (lambda: QuantConfig.from_any({"preset": "aiqvit-w4a4", "polish": "quick"}), "polish: 'aiqvit-w4a4' learns as it is"),
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
