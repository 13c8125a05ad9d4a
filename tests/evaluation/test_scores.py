"""Scores of models, graphs, files and functions are the same, and are counted here by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import ConfigError, DataError

LABELS = torch.tensor([0, 3, 1, 9, 4, 4, 0, 7])


@pytest.fixture
def batches(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(3), LABELS.split(3), strict=True))


def test_a_model_a_graph_and_its_file(
    vit: nn.Module, quantized: fx.GraphModule, exported: Path, images: Tensor, batches: list[tuple[Tensor, Tensor]]
) -> None:
    labels = vit(images).argmax(1)
    ours = list(zip(images.split(3), labels.split(3), strict=True))
    assert qpass.evaluate(vit, ours).values.tolist() == [1.0] * 8
    expected = [float(graph_label == label) for graph_label, label in zip(quantized(images).argmax(1), LABELS, strict=True)]
    for network in (quantized, exported, str(exported), quantized.forward):
        assert qpass.evaluate(network, batches).values.tolist() == expected
    found, base = qpass.evaluate(quantized, ours), qpass.evaluate(vit, ours)
    losses = np.array(base.values) - np.array(found.values)
    assert found.drop_from(base) == pytest.approx((losses.mean(), losses.std() / 8**0.5))


def test_a_metric_of_ones_own_sees_outputs_and_targets(vit: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    def negative_distance(outputs: Tensor, targets: Tensor) -> Tensor:
        return -(outputs.sum(1) - targets).abs()

    with torch.no_grad():
        expected = torch.cat([-(vit(x).sum(1) - y).abs() for x, y in batches]).double()
    found = qpass.evaluate(vit, batches, metric=negative_distance)
    assert torch.equal(found.values, expected)
    assert found.mean == pytest.approx(np.mean(expected.numpy()))
    assert found.standard_error == pytest.approx(np.std(expected.numpy()) / 8**0.5)
    assert repr(found) == f"<SampleScores: {found.mean:.4g} ± {found.standard_error:.2g} over 8 samples>"


def test_batches_are_read_one_at_a_time() -> None:
    seen = list[int]()

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(3):
            assert len(seen) == index, "the batch before is scored before the next is read"
            yield torch.eye(4), torch.arange(4)

    def network(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    assert qpass.evaluate(network, stream()).mean == 1.0
    assert seen == [4, 4, 4]


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.reshape(3, 6))

    torch.manual_seed(0)
    model, x, y = Fixed().eval(), torch.randn(8, 6), torch.arange(8) % 4
    with pytest.warns(UserWarning, match="batch"):
        graph = qpass.quantize_graph(model, [x[:3]], progress=False)
    file = qpass.export_onnx(graph, tmp_path / "m.onnx")
    expected = (model.layer(x).argmax(1) == y).double()
    assert torch.equal(qpass.evaluate(graph, [(x, y)]).values, expected)
    assert torch.equal(qpass.evaluate(file, [(x, y)]).values, expected)


def test_named_inputs_and_a_model_in_training_mode() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"logits": self.drop(a) + b, "other": b}

    model = Named().train()
    batch = {"a": torch.eye(4), "b": torch.zeros(4, 4), "unknown": torch.ones(1)}
    assert qpass.evaluate(model, [(batch, torch.arange(4))]).mean == 1.0
    assert model.training


@pytest.mark.parametrize(
    ("network", "batches", "metric", "error", "message"),
    [
        (5, [], "top1", ConfigError, "got a int; expected a model, a graph, an ONNX file or a function"),
        (torch.sin, [], "top1", DataError, "no batches"),
        (torch.sin, [], "top5", ConfigError, "no metric is called 'top5'; did you mean 'top1'?"),
        (torch.sin, [torch.ones(2, 2)], "top1", DataError, r"evaluate, batch 0: a Tensor without targets"),
        (torch.sin, [(torch.ones(2, 2), None)], "top1", DataError, "without targets"),
        (torch.sin, [(torch.ones(2, 2), torch.tensor([0, 2]))], "top1", DataError, "the label 2; expected labels below 2"),
        (torch.sin, [(torch.ones(2, 2), 0 * LABELS[:2])], lambda o, t: o, ConfigError, r"batch 0: returned a tensor of shape \(2, 2\)"),
        (torch.log, [(-torch.ones(2), LABELS[:2])], lambda o, t: o, ConfigError, "returned NaN or infinity"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored(network: Any, batches: Any, metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        qpass.evaluate(network, batches, metric=metric)


def test_scores_of_other_samples_are_not_compared() -> None:
    few, many = (qpass.evaluate(torch.sin, [(torch.eye(n), torch.arange(n))]) for n in (2, 3))
    with pytest.raises(DataError, match="2 scores against 3"):
        few.drop_from(many)
