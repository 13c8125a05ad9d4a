"""Advised rules are rules that the recipe accepts, and give the bits that they promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig
from qpass.report import QuantReport
from qpass.report.advice import ADVISED, advice, recipe_text


@pytest.fixture(scope="module")
def report(quantized_4bit: fx.GraphModule) -> QuantReport:
    return qpass.quantization_report(quantized_4bit)


def test_the_worst_tensors_come_first_each_with_a_rule(report: QuantReport) -> None:
    found, measured = advice(report)
    assert not measured
    assert [each.row for each in found] == sorted(report.tensors, key=lambda row: row.sqnr_db)[:ADVISED]
    config = QuantConfig.from_any(report.config)
    for each in found:
        (rule,) = yaml.safe_load(each.text)
        ((pattern, change),) = rule.items()
        ((path, role),) = each.row.readers
        assert (pattern, list(change)) == (path, [role])
        spec = config.with_rules(rule).resolve(path, role)
        assert spec is not None
        assert spec.bits == 8


def test_at_8_bits_the_layer_stays_float(quantized: fx.GraphModule) -> None:
    found, _ = advice(qpass.quantization_report(quantized))
    assert {each.effect for each in found} == {"leaves the layer in float"}
    assert all(yaml.safe_load(each.text) == [{each.row.readers[0][0]: None}] for each in found)


def test_a_rule_says_what_else_it_changes(report: QuantReport) -> None:
    row = next(row for row in report.tensors if row.label == "blocks.0.attn · K")
    alone = replace(report, tensors=tuple(replace(each, sqnr_db=-50.0) if each is row else each for each in report.tensors))
    assert advice(alone)[0][0].effect == "4 to 8 bits, Q and V too"


def test_a_softmax_gets_equal_steps(report: QuantReport) -> None:
    rows = tuple(replace(row, sqnr_db=-50.0) if row.part == "Softmax" else row for row in report.tensors)
    assert advice(replace(report, tensors=rows))[0][0].text == (
        "- {blocks.0.attn: {post_softmax: {bits: 8, quantizer: uniform, tabulated: false}}}\n"
    )


def test_strange_names_are_quoted_and_match_themselves_alone(report: QuantReport) -> None:
    name = "blocks[0]: #x*"
    rows = tuple(replace(row, readers=((name, role),)) for row in report.tensors for _, role in row.readers)
    each = advice(replace(report, tensors=rows))[0][0]
    (rule,) = yaml.safe_load(each.text)
    ((path, role),) = each.row.readers
    assert path == name
    assert QuantConfig.from_any("w4a4").with_rules(rule).resolve(name, role).bits == 8  # type: ignore[union-attr]


def test_a_recipe_that_cannot_be_read_has_no_rules(report: QuantReport) -> None:
    found, _ = advice(replace(report, config={**report.config, "unknown": 1}))
    assert [each.rules for each in found] == [()] * ADVISED
    assert recipe_text(report, found) == ""


def test_the_recipe_names_its_preset_only_if_it_is_one(report: QuantReport) -> None:
    found, _ = advice(report)
    assert yaml.safe_load(recipe_text(report, found))["preset"] == "repq-vit-w4a4"
    changed = replace(report, config=QuantConfig.from_any("repq-vit-w4a4").with_rules({"head": None}).to_dict())
    assert list(yaml.safe_load(recipe_text(changed, found))) == ["rules"]


@pytest.mark.slow
def test_the_recipe_as_printed_gives_the_bits(report: QuantReport, vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    found, _ = advice(report)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(report, found))
    again = qpass.quantization_report(qpass.quantize_graph(vit, [images], path, progress=False))
    bits = {row.label: row.bits for row in again.tensors}
    assert {bits[each.row.label] for each in found} == {8}
    assert again.output_sqnr_db > report.output_sqnr_db
