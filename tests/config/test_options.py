from __future__ import annotations

import ast
import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from qpass import ConfigError, QuantConfig, QuantSpec
from qpass.backends.onnx_qdq.capabilities import WeightType
from qpass.config import options
from qpass.config.reconstruction import ReconstructionConfig
from qpass.passes import FoldLayerNorm
from qpass.quantizers import QUANTIZERS, DynamicFocus

ROOT = Path(__file__).parents[2]
#: The enum of each text field, beside the field's class.
FIELDS: dict[str, tuple[type, type[StrEnum]]] = {
    "quantizer": (QuantSpec, options.QuantizerName),
    "criterion": (QuantSpec, options.FitCriterion),
    "code_zero": (QuantSpec, options.CodeZero),
    "fold_layer_norm": (QuantConfig, options.FoldTarget),
    "convolutions": (QuantConfig, options.Convolutions),
    "pointwise_convolutions": (QuantConfig, options.PointwiseConvolutions),
    "weight_rounding": (QuantConfig, options.WeightRounding),
    "token_weights": (QuantConfig, options.TokenWeights),
    "calibrate_on": (QuantConfig, options.CalibrateOn),
    "weights": (ReconstructionConfig, options.LearnedWeights),
    "inputs": (ReconstructionConfig, options.BlockInputs),
    "order": (ReconstructionConfig, options.LearningOrder),
    "loss": (ReconstructionConfig, options.BlockLoss),
    "precision": (ReconstructionConfig, options.Precision),
}
MEMBERS = [(name, member) for name, (_, members) in FIELDS.items() for member in members]
#: What an option is called where it is no field of a config.
_OTHER_NAMES = {
    "target": options.FoldTarget,
    "reading": options.CodeZero,
    "schedule": options.Schedule,
    "weight_type": WeightType,
}


def test_every_text_field_has_its_enum() -> None:
    texts = {
        field.name
        for config in (QuantSpec, QuantConfig, ReconstructionConfig)
        for field in dataclasses.fields(config)
        if field.type in ("str", "str | None") and field.name != "name"
    }
    assert texts == set(FIELDS)


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_a_member_and_its_text_are_the_same_and_kept_as_text(name: str, member: StrEnum) -> None:
    needs: dict[str, dict[str, Any]] = {"three-stage": {"weights": "full"}, "codebook": {"bits": 4}}
    more = needs.get(member, {})
    kind = FIELDS[name][0]
    by_member, by_text = kind(**{name: member}, **more), kind(**{name: member.value}, **more)
    assert by_member == by_text
    assert repr(by_member) == repr(by_text)
    assert f"{name}={member.value!r}" in repr(by_member)
    assert type(getattr(by_member, name)) is str
    assert getattr(by_text, name) == member


def test_members_in_rules_and_mappings_are_written_as_text() -> None:
    change = {"criterion": options.FitCriterion.OUTPUT, "quantizer": options.QuantizerName.TAN}
    config = QuantConfig.from_any({"post_softmax": change, "rules": {"head": {"post_softmax": change}}})
    again = QuantConfig.from_any({"post_softmax": {"criterion": "output", "quantizer": "tan"}})
    again = again.with_rules({"head": {"post_softmax": {"criterion": "output", "quantizer": "tan"}}})
    assert config.to_yaml() == again.to_yaml()
    assert config == again


def test_every_quantizer_name_has_a_class() -> None:
    assert list(QUANTIZERS) == list(options.QuantizerName)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FoldLayerNorm("medain"), r"target: got 'medain'; did you mean 'median'\?"),
        (lambda: DynamicFocus(4, code_zero="snap"), r"code_zero: unknown reading 'snap'; did you mean 'snapped'\?"),
    ],
)
def test_passes_and_quantizers_refuse_other_texts(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_every_member_is_explained() -> None:
    tree = ast.parse(Path(options.__file__).read_text(encoding="utf-8"))
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for member, after in zip(kind.body, [*kind.body[1:], None], strict=True):
            if isinstance(member, ast.Assign):
                assert isinstance(after, ast.Expr), (kind.name, ast.unparse(member))
                assert isinstance(after.value, ast.Constant)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def literal_comparisons(source: str) -> list[str]:
    """Returns the comparisons of an option with the text of one of its members."""
    kinds = {name: members for name, (_, members) in FIELDS.items()} | _OTHER_NAMES
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = set().union(*map(_texts, sides))
            if any(texts & set(kinds.get(_name(side), ())) for side in sides):
                found.append(ast.unparse(node))
    return found


def test_literal_comparisons_are_found() -> None:
    assert literal_comparisons("config.order == 'paper'") == ["config.order == 'paper'"]
    assert literal_comparisons("order in ('paper', x)") == ["order in ('paper', x)"]
    assert literal_comparisons("config.order == LearningOrder.PAPER or node.op == 'output'") == []


@pytest.mark.parametrize("folder", ["qpass", "benchmarks"])
def test_code_compares_options_with_members(folder: str) -> None:
    found = {path.name: literal_comparisons(path.read_text(encoding="utf-8")) for path in sorted((ROOT / folder).rglob("*.py"))}
    assert {name: comparisons for name, comparisons in found.items() if comparisons} == {}
