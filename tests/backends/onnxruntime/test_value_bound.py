"""What a layer may differ by beneath its codes, where a function is right to a share of its argument only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.layer_check import distances
from qpass.backends.onnxruntime.output_check import OutputCheck, check_freely
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.backends.onnxruntime.uncertainty import Uncertainty
from qpass.data import ModelInputs
from tests.backends.onnxruntime.test_output_check import changed


class _Saturated(nn.Module):
    """GELU, half of its channels near -12, where the result comes from a difference of two numbers near 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 8)
        with torch.no_grad():
            self.first.bias[:16] = -12.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.gelu(self.first(x)))


@pytest.fixture(scope="module")
def saturated(tmp_path_factory: pytest.TempPathFactory) -> tuple[fx.GraphModule, Path, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(32, 32)
    graph = qpass.quantize_graph(_Saturated().eval(), [x], "w8a8", progress=False)
    return graph, qpass.export_onnx(graph, tmp_path_factory.mktemp("saturated") / "m.onnx"), x


def test_errors_of_a_function_are_a_share_of_its_argument(saturated: tuple[fx.GraphModule, Path, Tensor]) -> None:
    graph, _, x = saturated
    run = TorchRun(graph, ModelInputs((x,), {}))
    name = list(run.quantizers)[-1]
    values = {each: given.clone() for each, given in run.inputs.items()}
    values[name] += 2.0**-23 * torch.sign(torch.randn(values[name].shape, generator=torch.Generator().manual_seed(0)))
    assert distances(run, values.__getitem__)[name] <= 1, "another erf, right to the last bit of the numbers near 1"
    values[name] += 1e-4
    assert distances(run, values.__getitem__)[name] > 1


def test_a_wrong_layer_is_found_all_the_same(saturated: tuple[fx.GraphModule, Path, Tensor], tmp_path: Path) -> None:
    graph, path, x = saturated
    assert qpass.verify_onnx(graph, path, x).passed
    wrong = changed(path, tmp_path, "first_quantized.bias", lambda bias: bias + np.float32(0.05))
    assert not qpass.verify_onnx(graph, wrong, x, strict=False).passed


@pytest.mark.parametrize("torch_has_nan", [False, True])
def test_nan_is_refused_where_torch_never_has_it_however_uncertain_it_is(torch_has_nan: bool) -> None:
    expected, found = np.array([[np.inf, 1.0]], np.float32), np.array([[np.nan, 1.0]], np.float32)
    check = check_freely(OutputCheck("y", 2, 0, 0, 0.0), found, expected, Uncertainty(0.0, 2, torch_has_nan))
    assert bool(check.failures) != torch_has_nan
