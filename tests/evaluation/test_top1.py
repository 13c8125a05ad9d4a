from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import qpass.data
from qpass.cli import main
from qpass.errors import DataError
from qpass.evaluation.top1 import evaluate_together, evaluate_top1, scores_of
from tests.models import DictModel

SCORES, FEATURES = torch.rand(4, 3), torch.rand(4, 5, 3)


class Outputs(NamedTuple):
    first: Any
    second: Any


@dataclass
class WithLogits:
    logits: Any
    other: Any = None


@pytest.mark.parametrize(
    "outputs",
    [
        *(SCORES, (SCORES,), [FEATURES, SCORES], {"x": SCORES, "y": FEATURES}, {"logits": SCORES, "hidden": SCORES + 1}),
        *(WithLogits(SCORES, SCORES + 1), Outputs(FEATURES, SCORES), ({"a": FEATURES}, (SCORES, None))),
    ],
)
def test_class_scores_are_found(outputs: Any) -> None:
    assert scores_of(outputs) is SCORES


@pytest.mark.parametrize(
    ("outputs", "named"),
    [
        ((SCORES, SCORES), r"\[0\] \(4, 3\), \[1\] \(4, 3\)"),
        ({"a": SCORES, "b": SCORES}, r"\['a'\] \(4, 3\), \['b'\] \(4, 3\)"),
        ({"logits": FEATURES, "b": SCORES}, r"logits \(4, 5, 3\)"),
        (FEATURES, r"output \(4, 5, 3\)"),
        (5, "a int"),
        ((), "a tuple"),
    ],
)
def test_outputs_without_class_scores_are_refused_by_name(outputs: Any, named: str) -> None:
    with pytest.raises(DataError, match=f"cannot tell the class scores among the outputs {named}"):
        scores_of(outputs)


def test_labels_and_scores_must_go_together() -> None:
    with pytest.raises(DataError, match="the label 3; expected labels below 3"):
        evaluate_top1(lambda x: SCORES, [(torch.zeros(4), torch.tensor([0, 1, 2, 3]))])
    with pytest.raises(DataError, match="1 rows of scores; expected one for each of 4 images"):
        evaluate_top1(lambda x: SCORES[:1], [(torch.zeros(4), torch.tensor([0, 1, 2, 2]))])


def test_several_predictors_read_each_batch_once() -> None:
    labels = SCORES.argmax(1)
    found = evaluate_together({"right": lambda x: SCORES, "wrong": lambda x: -SCORES}, iter([(SCORES, labels)] * 3))
    assert found["right"].top1 == 1
    assert found["wrong"].top1 == 0
    assert len(found["right"].correct) == 12


class CountedBatches:
    """Batches of images, and how many of them are alive at once at most."""

    def __init__(self, batches: int, rows: int) -> None:
        self.batches, self.rows, self.alive, self.most = batches, rows, 0, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.batches):
            images = torch.zeros(self.rows, 4)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(images, self._freed)
            yield images, torch.zeros(self.rows, dtype=torch.long)
            del images

    def _freed(self) -> None:
        self.alive -= 1


def test_fifty_thousand_images_stream() -> None:
    batches = CountedBatches(500, 100)
    assert len(evaluate_top1(lambda x: x, batches).correct) == 50_000
    assert batches.most <= 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``qpass quantize`` writes for a model with several outputs, and labels that its float logits give."""
    folder = tmp_path_factory.mktemp("dict")
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    model = make_dict_model()
    np.savez(folder / "x.npz", x=x.numpy(), y=model(x)["logits"].argmax(1).numpy())
    arguments = [
        "quantize",
        "tests.evaluation.test_top1:make_dict_model",
        "--calib",
        str(folder / "x.npz"),
        "--output",
        str(folder / "out"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def make_dict_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DictModel().eval()


def test_the_command_streams_and_takes_the_logits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of several outputs, with no more than a few batches of the data in memory."""
    alive, most, real = 0, 0, qpass.data.image_batches

    def counted(*arguments: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        nonlocal alive, most
        for images, labels in real(*arguments):
            alive += 1
            most = max(most, alive)
            weakref.finalize(images, freed)
            yield images, labels
            del images

    def freed() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(qpass.data, "image_batches", counted)
    arguments = ["evaluate", str(folder / "out"), "--data", str(folder / "x.npz"), "--batch-size", "2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "100.00%" in next(line for line in result.output.splitlines() if "float, onnxruntime" in line)
    assert most <= 3
