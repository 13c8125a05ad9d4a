from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from qpass.data import checked_batches
from qpass.data.targets import needless_targets

X, LABELS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])


class Trained(nn.Module):
    """Gives a loss where it is given labels; dropout must not hide that all else stays."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.layer, self.dropout, self.as_tuple = nn.Linear(3, 2), nn.Dropout(0.5), as_tuple

    def forward(self, x: Tensor, labels: Tensor | None = None) -> object:
        logits = self.dropout(self.layer(x))
        outputs = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        outputs["logits"] = logits
        return tuple(outputs.values()) if self.as_tuple else outputs


class Prompted(nn.Module):
    """Its labels are inputs, as SAM's labels of points are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, 3)

    def forward(self, x: Tensor, input_labels: Tensor | None = None) -> Tensor:
        return x if input_labels is None else x + self.embedding(input_labels)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_labels_of_a_loss_are_dropped(as_tuple: bool, wrapped: bool) -> None:
    model: nn.Module = Trained(as_tuple)
    model = Wrapped(model) if wrapped else model
    with pytest.warns(UserWarning, match=r"the model is not given \['labels'\], which only its loss needs"):
        (batch,) = checked_batches([{"x": X, "labels": LABELS}], model)
    assert list(batch.kwargs) == ["x"]
    assert model.training, "the model is left as it was"


def test_labels_that_the_outputs_depend_on_are_inputs() -> None:
    assert needless_targets(Prompted(), {"x": X, "input_labels": LABELS}) == set()


@pytest.mark.parametrize("value", [0, 1])
def test_labels_that_are_what_the_model_takes_by_default_are_inputs(value: int) -> None:
    """Calibration data may have one kind of point only; the graph has to take the others."""

    class Points(Prompted):
        def forward(self, x: Tensor, input_labels: Tensor | None = None) -> Tensor:
            return super().forward(x, torch.full((len(x),), value) if input_labels is None else input_labels)

    assert needless_targets(Points(), {"x": X, "input_labels": torch.full((4,), value)}) == set()


def test_labels_that_forward_demands_are_inputs() -> None:
    class Demanding(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return x

    assert needless_targets(Demanding(), {"x": X, "labels": LABELS}) == set()


BOXES = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])} for _ in range(4)]


@pytest.mark.parametrize(
    ("kind", "config", "side", "labels"),
    [
        ("ViTForImageClassification", {"num_labels": 3}, 32, torch.tensor([0, 1, 2, 1])),
        ("ViTForImageClassification", {"num_labels": 3}, 32, torch.eye(4, 3)),
        ("ViTForImageClassification", {"num_labels": 1}, 32, torch.rand(4, generator=torch.Generator().manual_seed(0))),
        ("YolosForObjectDetection", {"num_detection_tokens": 3, "num_labels": 4}, 32, BOXES),
        ("SegformerForSemanticSegmentation", {"num_labels": 3}, 64, torch.zeros(4, 64, 64, dtype=torch.int64)),
    ],
    ids=["classes", "several classes", "regression", "boxes", "maps"],
)
def test_labels_of_transformers_trainers_are_dropped(kind: str, config: dict[str, Any], side: int, labels: object) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
    }
    if kind.startswith("Segformer"):
        sizes = {"hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "depths": [1] * 4, "decoder_hidden_size": 8}
    else:
        sizes["image_size"] = [side, side] if kind.startswith("Yolos") else side
    model = getattr(transformers, kind)(getattr(transformers, f"{kind.split('For')[0]}Config")(**sizes, **config))
    batch = {"pixel_values": torch.randn(4, 3, side, side), "labels": labels}
    with pytest.warns(UserWarning, match=r"the model is not given \['labels'\], which only its loss needs"):
        (found,) = checked_batches([batch], model)
    assert list(found.kwargs) == ["pixel_values"]
