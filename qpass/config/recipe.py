"""``QuantConfig``: what to quantize, how, and to how many bits; read from and written to YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from qpass.config.budget import BudgetConfig
from qpass.config.fields import at_least_one, check_fields, choice, flag, instance, optional, text
from qpass.config.mixed import mixed_name, warn_of_new_meaning
from qpass.config.options import (
    CalibrateOn,
    Convolutions,
    FoldTarget,
    LearningOrder,
    PointwiseConvolutions,
    TokenWeights,
    WeightRounding,
)
from qpass.config.presets import preset_fields
from qpass.config.recipe_file import read_recipe
from qpass.config.reconstruction import ReconstructionConfig
from qpass.config.rules import Rules, apply_rules, as_rules, changed_spec
from qpass.config.signed_codes import check_signed_spec, signed_spec
from qpass.config.spec import (
    SPEC_FIELDS,
    TENSOR_ROLES,
    WEIGHT_PERCENTILES,
    QuantSpec,
    check_role,
)
from qpass.errors import ConfigError, check_keys
from qpass.runtime.atomic_write import write_whole

_CHECKS = {
    "name": text,
    **{role: instance(QuantSpec, "a QuantSpec") for role in SPEC_FIELDS},
    "fold_layer_norm": optional(choice(FoldTarget, expected="'mean', 'median'")),
    **dict.fromkeys(
        (
            *("every_softmax", "rotate_heads", "rotate_residual", "scale_channels", "fused_attention", "signed_codes"),
            "compensate_activations",
        ),
        flag,
    ),
    "convolutions": choice(Convolutions),
    "pointwise_convolutions": choice(PointwiseConvolutions),
    "weight_rounding": choice(WeightRounding),
    "token_weights": choice(TokenWeights),
    "calibrate_on": choice(CalibrateOn),
    "rules": lambda value, _: as_rules(value),
    "budget": optional(instance(BudgetConfig, "a BudgetConfig")),
    "range_samples": optional(at_least_one),
    "reconstruction": optional(instance(ReconstructionConfig, "a ReconstructionConfig")),
}


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """The complete recipe for one model.

    Attributes:
        name: Label shown in reports.
        weight: Weights of Linears and patch embeddings, one scale per output channel.
        activation: Inputs of Linears and attention matmuls, one scale per tensor.
        post_softmax: The Softmax output as input of the matmul with V, or of a Linear that mixes
            attention heads.
        network_input: Inputs of layers that read the network's input (the patch embedding); 8 bits in
            every preset.
        every_softmax: Quantize Softmax outputs that go into no matmul too, such as those that weigh the
            channels of neighbours in a point cloud. Runtimes have no integer kernels for them: the file
            quantizes and dequantizes them. Enabled in the presets of published methods, whose papers
            quantize all Softmax outputs.
        fold_layer_norm: Target of the channel-wise LayerNorm scales (``FoldTarget``): ``"mean"``,
            ``"median"``, or None to quantize LayerNorm outputs per tensor.
        rotate_heads: Rotate each attention head's channels before quantization; adjacent weights absorb
            the inverse (see ``qpass.passes.RotateHeads``).
        rotate_residual: Rotate the channels of the residual stream; adjacent weights absorb the inverse
            (see ``qpass.passes.RotateResidual``).
        scale_channels: Even out the channels of activation functions' outputs by a Mul, where that
            lowers the error of the Linears behind (see ``qpass.passes.ScaleChannels``).
        fused_attention: Quantize the queries, keys and values with signed codes and no zero point, as
            attention reads them: the form that OpenVINO fuses into one integer operator. Uniform
            quantizers only.
        signed_codes: Quantize every tensor with signed 8-bit codes and no zero point, right where the
            product reads it, and no outputs: the form that TensorRT takes (``target="tensorrt"``).
            Softmax outputs then have 7 bits, queries are scaled before their product with the keys
            (see ``qpass.passes.ScaleQueries``), and ``"fastest"`` quantizes the inputs of all
            convolutions. Weights below 8 bits keep their zero points, which the file subtracts.
        convolutions: Which convolutions to quantize (``Convolutions``): ``"patches"``, ``"fastest"``,
            ``"weights"`` or ``"all"``. ``"fastest"`` in ``wXaY``, ``mixed-wXaZ`` and
            ``codebook-wXaY``.
        pointwise_convolutions: What ``convolutions="patches"`` quantizes in 1x1 convolutions
            (``PointwiseConvolutions``): ``"weights"`` or ``"all"``.
        weight_rounding: ``"nearest"`` or ``"error-feedback"``, by GPTQ and GPTAQ
            (``WeightRounding``).
        compensate_activations: Let each weight compensate for the quantization of its input, by ridge
            regression before rounding (ERQ; see ``qpass.passes.RidgeAndGPTQ``).
        token_weights: Weight of each token of a layer's output in these two methods: ``"equal"``, or
            ``"hessian"``, by its effect on the network's output (``TokenWeights``).
        calibrate_on: Network that ranges are fitted on: ``"float"``, or ``"quantized"``, in a second
            run over the data (``CalibrateOn``).
        rules: Ordered ``{glob on module path: {role: change}}``; later rules win. A change is a
            mapping of QuantSpec fields, or None to leave that tensor in float. The rule
            ``{"head": None}`` leaves the layer in float.
        budget: Limits within which each tensor's bit width is chosen; None keeps the bit widths
            above. A tensor to which a rule or role gives a bit width other than that of
            ``activation`` or ``weight`` keeps it, and does not count in the means.
        range_samples: Number of calibration samples on which ranges are fitted, evenly spread; None
            uses all.
        reconstruction: How blocks are learned after calibration; None skips learning.

    Example:
        >>> config = QuantConfig.from_any("w4a4").with_rules({"head": {"weight": {"bits": 8}}})
        >>> config.resolve("head", "weight").bits
        8
    """

    name: str = "custom"
    weight: QuantSpec = field(default_factory=lambda: QuantSpec(percentiles=(*WEIGHT_PERCENTILES, 1.0), symmetric=True))
    activation: QuantSpec = field(default_factory=QuantSpec)
    post_softmax: QuantSpec = field(default_factory=QuantSpec)
    network_input: QuantSpec = field(default_factory=QuantSpec)
    every_softmax: bool = False
    fold_layer_norm: str | None = FoldTarget.MEAN.value
    rotate_heads: bool = False
    rotate_residual: bool = False
    scale_channels: bool = False
    fused_attention: bool = False
    signed_codes: bool = False
    convolutions: str = Convolutions.PATCHES.value
    pointwise_convolutions: str = PointwiseConvolutions.WEIGHTS.value
    weight_rounding: str = WeightRounding.NEAREST.value
    compensate_activations: bool = False
    token_weights: str = TokenWeights.EQUAL.value
    calibrate_on: str = CalibrateOn.FLOAT.value
    rules: Rules = ()
    budget: BudgetConfig | None = None
    range_samples: int | None = None
    reconstruction: ReconstructionConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)
        for role in SPEC_FIELDS:
            check_role(getattr(self, role), role, role)
        self._check_rules()
        self._check_learning()
        self._check_residuals()
        if self.signed_codes:
            self._check_signed_codes()

    def _check_rules(self) -> None:
        """Rejects invalid values and combinations now, not in the middle of a run."""
        for pattern, _ in self.rules:
            for role in TENSOR_ROLES:
                self.resolve(pattern, role)
            self.resolve(pattern, "activation", reads_network_input=True)

    def _check_learning(self) -> None:
        if self.reconstruction is None or self.reconstruction.order == LearningOrder.FOLD_FIRST:
            return
        for name, usual in (("weight_rounding", WeightRounding.NEAREST.value), ("compensate_activations", False)):
            if (value := getattr(self, name)) != usual:
                raise ConfigError(
                    f"{name}={value!r} with order={self.reconstruction.order!r}",
                    where=name,
                    expected=f"{usual!r}, or order='fold-first': others learn before LayerNorm scales are folded",
                )

    def _check_residuals(self) -> None:
        weights = [self.weight, *(self.resolve(pattern, "weight") for pattern, _ in self.rules)]
        if self.weight_rounding != WeightRounding.NEAREST and any(spec is not None and spec.residual_rank for spec in weights):
            raise ConfigError(
                f"weight_rounding={self.weight_rounding!r} with a residual_rank",
                where="weight_rounding",
                expected="'nearest': the branch makes up for the rounding of single weights",
                hint="set weight_rounding: nearest beside the rank",
            )

    def _check_signed_codes(self) -> None:
        if self.budget is not None:
            hint = "leave it out: codes of any width take a byte in TensorRT"
            raise ConfigError("a budget with signed_codes", where="budget", hint=hint)
        for role in SPEC_FIELDS:
            check_signed_spec(getattr(self, role), role, role)
        for pattern, _ in self.rules:
            for role in TENSOR_ROLES:
                check_signed_spec(self.resolve(pattern, role), role, f"rule {pattern!r}, {role}")

    def resolve(self, path: str, role: str, *, reads_network_input: bool = False) -> QuantSpec | None:
        """Returns the spec of one tensor after all rules, or None if a rule leaves it in float.

        Args:
            path: Module path of the layer, as in ``model.named_modules()``, or the pattern of a rule.
            role: ``"weight"``, ``"activation"`` or ``"post_softmax"``.
            reads_network_input: Whether the layer reads the network's input.

        Raises:
            ConfigError: If the combined rules give a spec that is invalid, or invalid for this role.
        """
        # A glob with brackets does not match itself.
        matches = lambda pattern: pattern == path or fnmatchcase(path, pattern)  # noqa: E731
        base = self.network_input if reads_network_input and role == "activation" else getattr(self, role)
        spec, where = apply_rules(self.rules, base, role, matches)
        if spec is not None:
            check_role(spec, role, where)
        return signed_spec(spec, role) if self.signed_codes and spec is not None else spec

    def with_rules(self, *rules: Mapping[str, Any]) -> QuantConfig:
        """Returns a copy with these rules appended."""
        return dataclasses.replace(self, rules=(*self.rules, *as_rules(list(rules))))

    def excluding(self, patterns: Sequence[str]) -> QuantConfig:
        """Returns a copy that leaves the layers that match one of these patterns in float.

        Args:
            patterns: Globs on module paths; a single text is one pattern.

        Raises:
            ConfigError: If a pattern is not a text.
        """
        globs = [patterns] if isinstance(patterns, str) else list(patterns)
        return self.with_rules(*({glob: None} for glob in globs)) if globs else self

    @classmethod
    def from_any(cls, config: QuantConfig | Mapping[str, Any] | str | Path) -> QuantConfig:
        """Returns a config from a config, preset name, YAML file path or mapping.

        Raises:
            ConfigError: If it is none of these, or has an unknown key or an invalid value.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, Mapping):
            return cls._from_mapping(config)
        if isinstance(config, Path) or (isinstance(config, str) and config.endswith((".yaml", ".yml"))):
            return cls.from_yaml(config)
        if isinstance(config, str):
            warn_of_new_meaning(config, {})
            return cls(**preset_fields(config))
        raise ConfigError(f"got {type(config).__name__}", where="config", expected="a preset's name, a QuantConfig or YAML")

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> QuantConfig:
        """Reads a YAML file: fields of this class, and optionally ``preset`` as the base.

        ``changes`` replace what the file says.
        """
        data = read_recipe(Path(path)) | changes
        try:
            return cls._from_mapping(data)
        except ConfigError as error:
            where = f"{path}, {error.where}" if error.where else str(path)
            raise ConfigError(error.what, where=where, expected=error.expected, hint=error.hint) from error

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data from which ``from_any`` rebuilds an equal config."""
        data = dataclasses.asdict(dataclasses.replace(self, rules=()))
        for role in SPEC_FIELDS:
            data[role]["percentiles"] = list(data[role]["percentiles"])
        if data["reconstruction"] is not None:
            data["reconstruction"]["ranks"] = list(data["reconstruction"]["ranks"])
        for name in ("activation_widths", "weight_widths") if data["budget"] is not None else ():
            data["budget"][name] = list(data["budget"][name])
        data["rules"] = [{pattern: _plain(change)} for pattern, change in self.rules]
        return data

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Returns the config as YAML, and writes it to ``path`` if given."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False)
        if path is not None:
            write_whole(Path(path), text)
        return text

    @classmethod
    def _from_mapping(cls, data: Mapping[str, Any]) -> QuantConfig:
        data = dict(data)
        learning = {key: value for key in ("schedule", "polish") if (value := data.pop(key, None)) is not None}
        if learning and "preset" not in data:
            raise ConfigError("needs a preset", where=next(iter(learning)), expected="preset: such as aiqvit-w4a4 or w4a4")
        base = cls()
        if "preset" in data:
            base = cls(**preset_fields(name := data.pop("preset"), **learning))
            warn_of_new_meaning(name, data)
        # These three were removed above, but a misspelled key may mean one of them.
        check_keys(data, [*(f.name for f in dataclasses.fields(cls)), "preset", "schedule", "polish"], "config")
        for role in SPEC_FIELDS:
            if role in data:
                data[role] = changed_spec(getattr(base, role), data[role], role)
        if isinstance(data.get("budget"), Mapping):
            # A budget beside wXaY chooses between Y and 8 bits, as mixed-wXaZ does.
            widths = {"activation_widths": (base.activation.bits, 8)} if mixed_name(base.name) else {}
            data["budget"] = BudgetConfig.from_mapping({**widths, **data["budget"]}, base.budget)
        if isinstance(data.get("reconstruction"), Mapping):
            data["reconstruction"] = ReconstructionConfig.from_mapping(data["reconstruction"], base.reconstruction)
        if "rules" in data:
            data["rules"] = (*base.rules, *as_rules(data["rules"]))
        return dataclasses.replace(base, **data)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
