"""The report on what tensors cost: order, rules that a recipe accepts, JSON, text."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml
from torch import Tensor, nn

import qpass
from qpass.errors import DataError
from qpass.report.sensitivity import SensitivityReport


@pytest.fixture(scope="module")
def report(vit: nn.Module, images: Tensor) -> SensitivityReport:
    return qpass.sensitivity_report(vit, [images], "w4a8", exclude=["head"], progress=False)


def test_the_largest_errors_come_first_in_text_and_rules(report: SensitivityReport) -> None:
    errors = [tensor.error for tensor in report.ordered]
    assert errors == sorted(errors, reverse=True)
    assert report.total == pytest.approx(sum(errors))
    worst = report.ordered[0]
    assert report.text(3).splitlines()[2].startswith(worst.paths[0])
    assert f"and {len(errors) - 3} more" in report.text(3)
    assert list(report.rules(1)[0]) == [worst.paths[0]]
    assert "head" not in str(report), "it stays float"


@pytest.mark.slow
def test_the_rules_are_part_of_a_recipe_and_lower_the_error(report: SensitivityReport, vit: nn.Module, images: Tensor) -> None:
    rules = yaml.safe_load(report.rules_yaml(4))["rules"]
    plain, widened = (
        qpass.quantize_graph(vit, [images], {"preset": "w4a8", "rules": chosen}, exclude=["head"], progress=False)
        for chosen in ([], rules)
    )
    expected = vit(images)
    errors = [(graph(images) - expected).square().sum().item() for graph in (plain, widened)]
    assert errors[1] < 0.8 * errors[0]


def test_tensors_with_8_bits_get_float(report: SensitivityReport) -> None:
    eight = dataclasses.replace(report, tensors=tuple(dataclasses.replace(tensor, changes={}) for tensor in report.tensors))
    (rule, *_) = eight.rules(1)
    ((path, role),) = report.ordered[0].members
    assert rule == {path: {role: None}}


def test_json_is_read_back(report: SensitivityReport) -> None:
    again = SensitivityReport.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert again.tensors == report.tensors
    data = json.loads(report.to_json())
    data["tensors"][0]["bits"] = "four"
    with pytest.raises(DataError, match=r"sensitivity.tensors\[0\].bits"):
        SensitivityReport.from_json(json.dumps(data))


def test_a_model_of_another_dtype_is_measured_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).double().eval()
    with pytest.warns(UserWarning, match="float64"):
        found = qpass.sensitivity_report(model, [torch.randn(16, 8).double()], "w4a8", progress=False)
    assert {tensor.role for tensor in found.tensors} == {"weight", "activation"}
