"""Bounds of a clamp are of one type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qpass.backends.onnx_qdq.export import export_float
from qpass.passes.rules.float_bounds import float_bounds
from tests.passes.rules.rule_case import Call, apply, seeded


@pytest.mark.parametrize("bounds", [(-1, 1.5), (0.0, 1)])
def test_a_whole_number_beside_a_float_becomes_one(bounds: tuple[Any, Any], tmp_path: Path) -> None:
    graph, changed = apply(float_bounds, Call(lambda m, x: torch.clamp(x, *bounds)), seeded(2, 4))
    assert changed == 1
    assert float_bounds.apply(graph).count == 0
    assert export_float(graph, tmp_path / "clamp.onnx").exists()


@pytest.mark.parametrize("bounds", [(0, 1), (0.0, 1.0), (0, None), (None, 1.5)])
def test_bounds_of_one_type_stay(bounds: tuple[Any, Any]) -> None:
    assert apply(float_bounds, Call(lambda m, x: torch.clamp(x, *bounds)), seeded(2, 4))[1] == 0
