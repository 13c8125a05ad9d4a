"""What to quantize, how, and to how many bits: ``QuantSpec``, ``QuantConfig``, YAML in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from qpass.budget_config import BudgetConfig
from qpass.errors import ConfigError, check_keys, nearest
from qpass.reconstruction_config import ReconstructionConfig
from qpass.whole_file import write_whole

QUANTIZER_NAMES = ("uniform", "log2", "log-sqrt2", "dynamic-focus", "shift-log2", "tan")
#: Those that take values from 0 to 1.
SOFTMAX_ONLY = ("dynamic-focus", "shift-log2", "tan")
FOLD_TARGETS = ("mean", "median")
CRITERIA = ("tensor", "output")
CALIBRATION_GRAPHS = ("float", "quantized")
WEIGHT_ROUNDINGS = ("nearest", "error-feedback")
TOKEN_WEIGHTS = ("equal", "hessian")
POINTWISE_CONVOLUTIONS = ("weights", "all")
CODE_ZERO = ("affine", "zero", "snapped")

#: Values in a YAML file, aliases written out.
LARGEST_RECIPE = 100_000

#: Clip ranges tried for activations and for weights (methods of RepQ-ViT). 1.0 is the full range.
ACTIVATION_PERCENTILES = (0.999, 0.9999, 0.99999)
WEIGHT_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999)


#: A few great values make most of the squared error of a Softmax output and little of the output's: clip further down.
SOFTMAX_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        bits: Width of the codes, 2 to 8.
        quantizer: ``"uniform"``, or for Softmax outputs ``"log2"``, ``"log-sqrt2"``, ``"dynamic-focus"``, ``"shift-log2"`` or
            ``"tan"`` (see ``qpass.quantizers``).
        symmetric: Signed codes around zero point 0 (uniform only). Weights gain nothing from a zero
            point at 8 bits and much at 4.
        percentiles: Clip ranges tried when fitting, each in (0.5, 1]; the one with the least error wins.
        criterion: That error: ``"tensor"``, of the tensor itself, or ``"output"``, of the product that the tensor enters
            (attention times V; for the Softmax output only).
        code_zero: What the codes of ``"dynamic-focus"`` stand for: ``"affine"``, ``"zero"``, ``"snapped"`` (see
            ``qpass.quantizers.DynamicFocus``), or ``"best"``, the one with the least error, for each tensor on its own.
        exponent_round: Whether ``"shift-log2"`` rounds exponents to whole numbers, as I&S-ViT does.
        tabulated: Deploy the quantizer of a Softmax output as a table over 256 cells of equal ratio (see
            ``qpass.quantizers.LookUp``), whose cost does not depend on the formula; thresholds move to edges of cells.
        residual_rank: Rank of a branch beside a Linear that makes up for the rounding of its weight and stays at inference
            (see ``qpass.passes.AddResidual``); 0 for none. Of use to weights of 2 or 3 bits.
    """

    bits: int = 8
    quantizer: str = "uniform"
    symmetric: bool = False
    percentiles: tuple[float, ...] = (*ACTIVATION_PERCENTILES, 1.0)
    criterion: str = "tensor"
    code_zero: str = "best"
    exponent_round: bool = False
    tabulated: bool = False
    residual_rank: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentiles", tuple(self.percentiles))
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"got {self.bits!r}", where="bits", expected="a whole number from 2 to 8")
        if self.quantizer not in QUANTIZER_NAMES:
            raise ConfigError(
                f"unknown quantizer {self.quantizer!r}", where="quantizer", hint=nearest(self.quantizer, QUANTIZER_NAMES)
            )
        if self.criterion not in CRITERIA:
            raise ConfigError(
                f"unknown criterion {self.criterion!r}", where="criterion", hint=nearest(str(self.criterion), CRITERIA)
            )
        if self.code_zero not in ("best", *CODE_ZERO):
            hint = nearest(str(self.code_zero), ("best", *CODE_ZERO))
            raise ConfigError(f"unknown reading {self.code_zero!r}", where="code_zero", hint=hint)
        if self.symmetric and self.quantizer != "uniform":
            raise ConfigError(
                f"symmetric=True does not go with quantizer={self.quantizer!r}",
                where="symmetric",
                hint="leave it out: only uniform codes have a zero point to fix",
            )
        if self.tabulated and self.quantizer in ("uniform", "dynamic-focus"):
            raise ConfigError(
                f"tabulated=True does not go with quantizer={self.quantizer!r}",
                where="tabulated",
                hint="leave it out: codes of equal steps are cheaper as they are",
            )
        if isinstance(self.residual_rank, bool) or not isinstance(self.residual_rank, int) or self.residual_rank < 0:
            raise ConfigError(f"got {self.residual_rank!r}", where="residual_rank", expected="a whole number, 0 for none")
        if not self.percentiles or not all(0.5 < p <= 1 for p in self.percentiles):
            raise ConfigError(f"got {self.percentiles!r}", where="percentiles", expected="numbers in (0.5, 1]")


#: The tensors of a layer that a rule may change.
TENSOR_ROLES = ("weight", "activation", "post_softmax")


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """The whole recipe for one model.

    Attributes:
        name: A label that reports show.
        weight: Weights of Linears and patch embeddings, one scale for each output channel.
        activation: Inputs of Linears and of attention matmuls, one scale for each tensor.
        post_softmax: The Softmax output where it enters the matmul with V.
        network_input: Inputs of layers that read the network's own input (the patch embedding); 8 bits in every preset.
        fold_layer_norm: Target of the channel-wise LayerNorm scales, ``"mean"`` (RepQ-ViT), ``"median"``
            (DopQ-ViT), or None to quantize LayerNorm outputs per tensor.
        rotate_heads: Turn the channels of every attention head before anything is quantized, which the weights around it take
            back (see ``qpass.passes.RotateHeads``).
        rotate_residual: Turn the channels of the residual stream, which the weights around it take back too (see
            ``qpass.passes.RotateResidual``).
        pointwise_convolutions: What is quantized of a 1x1 convolution: ``"weights"`` alone, its product stays float, since on a
            CPU the way from images to matrices and back costs more than integers save; or ``"all"``, for other hardware.
        weight_rounding: ``"nearest"``, or ``"error-feedback"``: column by column, the error of each made up for by those still
            to come, in the metric of the layer's inputs (GPTQ, GPTAQ; see ``qpass.passes.CompensateLayers``).
        compensate_activations: Let each layer's weight make up for the quantization of its own input, by ridge regression
            before it is rounded (ERQ; see ``qpass.passes.CompensateLayers``).
        token_weights: How much the tokens of a layer's output count in these two: all ``"equal"``, or each by what an error in
            it does to the network's output (``"hessian"``, the diagonal of a Hessian from one backward pass).
        calibrate_on: ``"float"`` fits every range on the float network; ``"quantized"`` fits them again on what the
            quantized network before them gives (a second run of the data), as RepQ-ViT's published code does.
        rules: Ordered ``{glob on module path: {role: change}}``; a later rule wins. A change is a mapping of
            QuantSpec fields, or None to leave that tensor in float. The rule ``{"head": None}`` leaves the layer in float.
        budget: Limits within which each tensor's width is chosen; None keeps the widths above. What a rule or its role gives
            another width than ``activation`` or ``weight`` keeps it, and does not count in the means.
        range_samples: How many calibration samples ranges are fitted on, spread evenly; None takes all.
        reconstruction: How blocks are learned afterwards, or None to leave them as calibrated.

    Example:
        >>> QuantConfig.from_any("w4a4").with_rules({"head": {"weight": {"bits": 8}}}).resolve("head", "weight").bits
        8
    """

    name: str = "custom"
    weight: QuantSpec = field(default_factory=lambda: QuantSpec(percentiles=(*WEIGHT_PERCENTILES, 1.0), symmetric=True))
    activation: QuantSpec = field(default_factory=QuantSpec)
    post_softmax: QuantSpec = field(default_factory=QuantSpec)
    network_input: QuantSpec = field(default_factory=QuantSpec)
    fold_layer_norm: str | None = "mean"
    rotate_heads: bool = False
    rotate_residual: bool = False
    pointwise_convolutions: str = "weights"
    weight_rounding: str = "nearest"
    compensate_activations: bool = False
    token_weights: str = "equal"
    calibrate_on: str = "float"
    rules: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    budget: BudgetConfig | None = None
    range_samples: int | None = None
    reconstruction: ReconstructionConfig | None = None

    def __post_init__(self) -> None:
        if self.fold_layer_norm not in (None, *FOLD_TARGETS):
            raise ConfigError(
                f"got {self.fold_layer_norm!r}",
                where="fold_layer_norm",
                expected="'mean', 'median' or None",
                hint=nearest(str(self.fold_layer_norm), FOLD_TARGETS),
            )
        if self.calibrate_on not in CALIBRATION_GRAPHS:
            raise ConfigError(
                f"got {self.calibrate_on!r}", where="calibrate_on", hint=nearest(str(self.calibrate_on), CALIBRATION_GRAPHS)
            )
        if self.pointwise_convolutions not in POINTWISE_CONVOLUTIONS:
            raise ConfigError(
                f"got {self.pointwise_convolutions!r}",
                where="pointwise_convolutions",
                hint=nearest(str(self.pointwise_convolutions), POINTWISE_CONVOLUTIONS),
            )
        for name in ("rotate_heads", "rotate_residual", "compensate_activations"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"got {getattr(self, name)!r}", where=name, expected="true or false")
        if self.weight_rounding not in WEIGHT_ROUNDINGS:
            hint = nearest(str(self.weight_rounding), WEIGHT_ROUNDINGS)
            raise ConfigError(f"got {self.weight_rounding!r}", where="weight_rounding", hint=hint)
        if self.token_weights not in TOKEN_WEIGHTS:
            hint = nearest(str(self.token_weights), TOKEN_WEIGHTS)
            raise ConfigError(f"got {self.token_weights!r}", where="token_weights", hint=hint)
        if isinstance(self.reconstruction, ReconstructionConfig) and self.reconstruction.order != "fold-first":
            for name, usual in (("weight_rounding", "nearest"), ("compensate_activations", False)):
                if (value := getattr(self, name)) != usual:
                    raise ConfigError(
                        f"{name}={value!r} with order={self.reconstruction.order!r}",
                        where=name,
                        expected=f"{usual!r}, or order='fold-first': others learn before LayerNorm scales are folded",
                    )
        for role in (*TENSOR_ROLES, "network_input"):
            if not isinstance(getattr(self, role), QuantSpec):
                raise ConfigError(f"got {getattr(self, role)!r}", where=role, expected="a QuantSpec")
        for role in ("weight", "activation", "network_input"):
            if getattr(self, role).criterion != "tensor":
                raise ConfigError("criterion='output'", where=role, expected="'tensor': only the Softmax output has the other")
            if (name := getattr(self, role).quantizer) in SOFTMAX_ONLY:
                raise ConfigError(f"quantizer={name!r}", where=role, expected="another: it is for Softmax outputs only")
        for role in ("activation", "post_softmax", "network_input"):
            if getattr(self, role).residual_rank:
                raise ConfigError("residual_rank above 0", where=role, expected="0: only a weight has a residual")
        if self.weight.quantizer != "uniform":
            raise ConfigError(f"quantizer={self.weight.quantizer!r} on weights", where="weight", expected="'uniform'")
        if self.range_samples is not None and (not isinstance(self.range_samples, int) or self.range_samples < 1):
            raise ConfigError(f"got {self.range_samples!r}", where="range_samples", expected="a whole number above 0, or None")
        if not isinstance(self.budget, BudgetConfig | None):
            raise ConfigError(f"got {self.budget!r}", where="budget", expected="a BudgetConfig or None")
        if not isinstance(self.reconstruction, ReconstructionConfig | None):
            raise ConfigError(f"got {self.reconstruction!r}", where="reconstruction", expected="a ReconstructionConfig or None")
        object.__setattr__(self, "rules", _normalize_rules(self.rules))
        weights = [self.weight]
        for pattern, _ in self.rules:
            for role in TENSOR_ROLES:
                spec = self.resolve(pattern, role)  # a bad value is refused here, not in the middle of the work
                weights += [spec] if role == "weight" and spec is not None else []
        if self.weight_rounding != "nearest" and any(spec.residual_rank for spec in weights):
            raise ConfigError(
                f"weight_rounding={self.weight_rounding!r} with a residual_rank",
                where="weight_rounding",
                expected="'nearest': the branch makes up for the rounding of single weights",
                hint="set weight_rounding: nearest beside the rank",
            )

    def resolve(self, path: str, role: str, *, reads_network_input: bool = False) -> QuantSpec | None:
        """Returns the spec of one tensor after all rules, or None where a rule leaves it in float.

        Args:
            path: Module path of the layer, as in ``model.named_modules()``.
            role: ``"weight"``, ``"activation"`` or ``"post_softmax"``.
            reads_network_input: Whether the layer reads the network's input.
        """
        spec: QuantSpec | None
        spec = self.network_input if reads_network_input and role == "activation" else getattr(self, role)
        default = spec
        for pattern, change in self.rules:
            if not fnmatchcase(path, pattern):
                continue
            if change is None:
                spec = None
            elif role in change:
                update = change[role]
                spec = None if update is None else _spec_from(spec or default, update, f"rule {pattern!r}, {role}")
        return spec

    def with_rules(self, *rules: Mapping[str, Any]) -> QuantConfig:
        """Returns a copy with these rules after the present ones."""
        return dataclasses.replace(self, rules=(*self.rules, *_normalize_rules(rules)))

    @classmethod
    def from_any(cls, config: QuantConfig | Mapping[str, Any] | str | Path) -> QuantConfig:
        """Takes a config, a preset's name, a path of a YAML file or a mapping.

        Raises:
            ConfigError: If it is none of these, or holds an unknown key or a bad value.
        """
        from qpass.presets import preset  # presets build on this module

        if isinstance(config, cls):
            return config
        if isinstance(config, Mapping):
            return cls._from_mapping(config)
        if isinstance(config, Path) or str(config).endswith((".yaml", ".yml")):
            return cls.from_yaml(str(config))
        if isinstance(config, str):
            return preset(config)
        raise ConfigError(f"got {type(config).__name__}", where="config", expected="a preset's name, a QuantConfig or YAML")

    @classmethod
    def from_yaml(cls, path: str | Path) -> QuantConfig:
        """Reads a YAML file. The key ``preset`` starts from a preset; other keys are this class's fields."""
        try:
            text = Path(path).read_text(encoding="utf-8")
            if _expanded_size(yaml.compose(text, yaml.SafeLoader), {}) > LARGEST_RECIPE:
                raise ConfigError("its aliases make it grow without end", where=str(path), expected="a recipe")
            data = yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot be read: {' '.join(str(error).split())}", where=str(path)) from error
        if not isinstance(data, dict):
            raise ConfigError("holds no mapping", where=str(path), expected="keys such as 'preset' and 'rules'")
        try:
            return cls._from_mapping(data)
        except ConfigError as error:
            where = f"{path}, {error.where}" if error.where else str(path)
            raise ConfigError(error.what, where=where, expected=error.expected, hint=error.hint) from error

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data that ``from_any`` reads back to an equal config."""
        data = dataclasses.asdict(dataclasses.replace(self, rules=()))
        for role in (*TENSOR_ROLES, "network_input"):
            data[role]["percentiles"] = list(data[role]["percentiles"])
        if data["reconstruction"] is not None:
            data["reconstruction"]["ranks"] = list(data["reconstruction"]["ranks"])
        for name in ("activation_widths", "weight_widths") if data["budget"] is not None else ():
            data["budget"][name] = list(data["budget"][name])
        data["rules"] = [{pattern: _plain(change)} for pattern, change in self.rules]
        return data

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Returns the config as YAML, and writes it where a path is given."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False)
        if path is not None:
            write_whole(Path(path), text)
        return text

    @classmethod
    def _from_mapping(cls, data: Mapping[str, Any]) -> QuantConfig:
        from qpass.presets import preset  # presets build on this module

        data = dict(data)
        learning = {key: value for key in ("schedule", "polish") if (value := data.pop(key, None)) is not None}
        if learning and "preset" not in data:
            raise ConfigError("needs a preset", where=next(iter(learning)), expected="preset: such as aiqvit-w4a4 or w4a4")
        base = cls()
        if "preset" in data:
            name = data.pop("preset")
            base = preset(str(name), **learning) if learning else cls.from_any(name)
        # A preset and its learning are taken out above, and named among the keys that may have been meant.
        check_keys(data, [*(f.name for f in dataclasses.fields(cls)), "preset", "schedule", "polish"], "config")
        for role in (*TENSOR_ROLES, "network_input"):
            if role in data:
                data[role] = _spec_from(getattr(base, role), data[role], role)
        if isinstance(data.get("budget"), Mapping):
            data["budget"] = BudgetConfig.from_mapping(data["budget"], base.budget)
        if isinstance(data.get("reconstruction"), Mapping):
            data["reconstruction"] = ReconstructionConfig.from_mapping(data["reconstruction"], base.reconstruction)
        if "rules" in data:
            data["rules"] = (*base.rules, *_normalize_rules(data["rules"]))
        return dataclasses.replace(base, **data)


def _expanded_size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Returns how many values a YAML node stands for when every alias in it is written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_RECIPE + 1  # what holds itself
        items = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_expanded_size(item, known) for item in items)
    return known[id(node)]


def _spec_from(base: QuantSpec, change: Any, where: str) -> QuantSpec:
    if isinstance(change, QuantSpec):
        return change
    if not isinstance(change, Mapping):
        raise ConfigError(f"got {change!r}", where=where, expected="a mapping such as {bits: 8}, or null for float")
    check_keys(change, (f.name for f in dataclasses.fields(QuantSpec)), where)
    try:
        return dataclasses.replace(base, **change)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{where}.{error.where}", expected=error.expected, hint=error.hint) from error
    except TypeError as error:
        raise ConfigError(str(error), where=where) from error


def _normalize_rules(rules: Any) -> tuple[tuple[str, Mapping[str, Any] | None], ...]:
    """Takes a mapping, or a list of mappings or pairs, and returns ordered pairs."""
    if isinstance(rules, Mapping):
        rules = [rules]
    pairs: list[tuple[str, Mapping[str, Any] | None]] = []
    for rule in rules or ():
        pairs.extend(rule.items() if isinstance(rule, Mapping) else [tuple(rule)])
    for pattern, change in pairs:
        if change is not None and not isinstance(change, Mapping):
            raise ConfigError(f"got {change!r}", where=f"rule {pattern!r}", expected=f"a mapping of {TENSOR_ROLES} or null")
        check_keys(change or (), TENSOR_ROLES, f"rule {pattern!r}")
    return tuple((str(pattern), change) for pattern, change in pairs)


def _plain(value: Any) -> Any:
    if isinstance(value, QuantSpec):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
