"""Networks that choose by value: top-k, argmax, sort and comparisons, whose choice between two near values rounding turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qpass
from tests.backends.onnxruntime.test_output_check import changed

CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "masked by its k-th": lambda y: torch.where(y < y.topk(3).values[..., -1:], 0.0, y),
    "masked by its k-th in order": lambda y: y * (y >= y.sort(-1, descending=True).values[..., 2:3]),
    "greatest alone": lambda y: torch.where(y < y.amax(-1, keepdim=True), 0.0, y),
    "argmax": lambda y: F.one_hot(y.argmax(-1), 8) * 1.0,
    "order": lambda y: y.argsort(-1, descending=True) * 1.0,
    "neighbours": lambda y: (y > y.roll(1, -1)) * 1.0,
    "steps": lambda y: (y / y.roll(1, -1)).floor().clamp(-2, 2),
}


class _Chooses(nn.Module):
    """Chooses among eight values, of which the first and second are equal, and the third and fourth."""

    def __init__(self, choice: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scores, self.middle, self.out, self.choice = nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 4), choice
        with torch.no_grad():
            self.scores.weight[1:4:2], self.scores.bias[1:4:2] = self.scores.weight[:4:2], self.scores.bias[:4:2]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.middle(self.choice(self.scores(x)))))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("choice", CHOICES)
def test_a_file_that_chooses_otherwise_between_equal_values_passes_and_a_wrong_one_does_not(
    choice: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 16)
    graph = qpass.quantize_graph(_Chooses(CHOICES[choice]).eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    rounded = np.array([1, 1 + 2.0**-22, 1, 1 - 2.0**-22, 1, 1, 1, 1], np.float32)  # as another order of a sum may give
    turned = changed(path, tmp_path, "scores_quantized.weight_scale", lambda scale: scale * rounded)
    for file in (path, turned):
        report = qpass.verify_onnx(graph, file, x, strict=False)
        assert report.passed, str(report)
    assert differ(graph, turned, x), "the choice has been turned"
    for name, factor in (("scores", np.array([1, 1, 1, 1, 1, 4, 1, 1])), ("middle", 1.002), ("out", 1.002)):
        wrong = changed(path, tmp_path, f"{name}_quantized.weight_scale", lambda scale: scale * np.float32(factor))  # noqa: B023
        assert not qpass.verify_onnx(graph, wrong, x, strict=False).passed, name


def differ(graph: fx.GraphModule, path: Path, x: Tensor) -> bool:
    return float((qpass.onnxruntime_model(graph, path)(x) - graph(x)).abs().max()) > 1e-3


class _Attention(nn.Module):
    """Attends to the eight tokens with the greatest scores."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj, self.head = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        a = q @ k.transpose(-1, -2) / 8**0.5
        a = torch.where(a < a.topk(8).values[..., -1:], -torch.inf, a)
        x = x + self.proj((a.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def test_attention_masked_by_its_own_kth_score_passes(tmp_path: Path) -> None:
    """In the third batch the runtime drops one score of a near pair that torch keeps."""
    torch.manual_seed(0)
    x = torch.randn(8, 64, 32)
    graph = qpass.quantize_graph(_Attention().eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    for seed in (0, 1, 12):
        y = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(seed))
        assert qpass.verify_onnx(graph, path, y).passed
