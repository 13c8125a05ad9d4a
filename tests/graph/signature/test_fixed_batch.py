"""Networks whose batch is fixed, beyond the number of samples that other networks are reported on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import CalibrationError, UnsupportedError
from qpass.evaluation.top1 import in_batches_of

ROWS = 16


class PostNorm(nn.Module):
    """torch's own encoder, LayerNorms behind the sums, and a class token that fixes the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))[:, 0])


def data(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 4, 32, generator=torch.Generator().manual_seed(seed))


RECIPES = {
    "w8a8": "w8a8",
    "mixed-w4a5": "mixed-w4a5",
    "a budget": {"preset": "w8a8", "budget": {"weight_bits": 6}},
    "learned": {
        "preset": "aiqvit-w4a4",
        "reconstruction": {"search_steps": 2, "steps": 2, "ranks": [2], "batch_size": 4},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.filterwarnings("ignore:PostNorm. the batch is fixed")
def test_every_recipe_takes_a_fixed_batch(recipe: str, tmp_path: Path) -> None:
    model = PostNorm().eval()
    graph = qpass.quantize_graph(
        model, [data(2 * ROWS), data(ROWS, 2)], RECIPES[recipe], example_inputs=data(ROWS), progress=False
    )
    x = data(ROWS, 3)
    assert (graph(x) - model(x)).norm() < 0.5 * model(x).norm()
    assert qpass.quantization_report(graph).samples == ROWS
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    runner = qpass.onnxruntime_model(graph, path)
    torch.testing.assert_close(runner(x), graph(x), rtol=0, atol=0.05)
    for run in (graph, runner, lambda x: qpass.verify_onnx(graph, path, x)):
        with pytest.raises(UnsupportedError, match=r"PostNorm: got x \(3, 4, 32\); expected \(16, 4, 32\)"):
            run(data(3))


@pytest.mark.filterwarnings("ignore:PostNorm. the batch is fixed")
def test_rows_that_fill_no_batch_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="PostNorm: 5 of 37 rows are left out: its batch is fixed at 16"):
        qpass.quantize_graph(PostNorm().eval(), [data(ROWS), data(ROWS + 5)], progress=False)


@pytest.mark.filterwarnings("ignore:PostNorm. the batch is fixed")
def test_batches_that_are_all_too_small_are_refused() -> None:
    with pytest.raises(CalibrationError, match="PostNorm: batches of 7 rows; expected 16, its fixed batch"):
        qpass.quantize_graph(PostNorm().eval(), [data(7), data(3)], example_inputs=data(ROWS), progress=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PostNorm. the batch is fixed")
def test_timings_are_taken_at_the_fixed_batch() -> None:
    model = PostNorm().eval()
    graph = qpass.quantize_graph(model, [data(ROWS)], progress=False)
    report = qpass.benchmark_latency(graph, baseline=model, batches=(1,), runs=1, progress=False)
    assert all(row.median_ms > 0 for row in report.rows)


def test_batches_of_any_size_are_scored_by_a_fixed_batch() -> None:
    def predict(images: Tensor) -> Tensor:
        assert len(images) == ROWS
        return images.flatten(1)

    images = data(37)
    torch.testing.assert_close(in_batches_of(ROWS, predict)(images), images.flatten(1))
