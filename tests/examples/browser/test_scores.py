"""The page's best classes are those that out/run.py prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpass.backends.deployed.run import best
from tests.examples.javascript import call

DRAWN = np.random.default_rng(0).normal(size=(3, 7, 4, 5)).astype(np.float32)
OUTPUTS: tuple[dict[str, np.ndarray], ...] = (
    {"output": DRAWN[:1, :, 0, 0]},
    {"hidden": DRAWN[:1, :, 0, 0], "logits": DRAWN[1:2, :, 0, 0] * 300},
    {"logits": DRAWN[:1]},
)


def best_in_javascript(*outputs: dict[str, np.ndarray]) -> list[Any]:
    tensors = [{name: {"dims": output.shape, "data": output} for name, output in each.items()} for each in outputs]
    return [each["result"] for each in call(*(("browser/src/scores.js", "best", [each, ["a", "b"], 4]) for each in tensors))]


def test_classes_and_shares() -> None:
    for outputs, found in zip(OUTPUTS, best_in_javascript(*OUTPUTS), strict=True):
        lines = best(outputs, ["a", "b"], 4)
        assert [each["name"] for each in found] == [line.split("%  ")[1] for line in lines]
        assert [each["share"] for each in found] == pytest.approx([float(line.split("%")[0]) / 100 for line in lines], abs=6e-5)


def test_outputs_that_hold_no_scores() -> None:
    boxes = {"logits": np.zeros((1, 5, 3), np.float32), "boxes": np.zeros((1, 5, 4), np.float32)}
    assert best_in_javascript(boxes, {"a": DRAWN[:1, :, 0, 0], "b": DRAWN[:1, :, 0, 0]}) == [None, None]
