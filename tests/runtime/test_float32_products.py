from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import qpass
from qpass.runtime.float32_products import _DEFAULTS, _set, _settings, full_products
from qpass.runtime.torch_modes import default_modes


def _mkldnn_matmul() -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def _mkldnn_conv() -> None:
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def _mkldnn() -> None:
    torch.backends.mkldnn.fp32_precision = "bf16"


def _everything() -> None:
    torch.backends.fp32_precision = "tf32"


def _cuda() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


WAYS: list[Callable[[], None]] = [
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: torch.set_float32_matmul_precision("high"),
    *(_mkldnn_matmul, _mkldnn_conv, _mkldnn, _everything, _cuda),
]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    _set(_DEFAULTS)
    torch.set_float32_matmul_precision("highest")
    _set(_DEFAULTS)


def precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_coarse_products_are_off_inside_and_come_back(way: int) -> None:
    WAYS[way]()
    before = _settings(), precision()
    with default_modes():
        values = {torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision}
        assert values | {torch.backends.cuda.matmul.fp32_precision} <= {"none", "ieee"}
        assert torch.get_float32_matmul_precision() == "highest"
    assert (_settings(), precision()) == before


def test_defaults_are_left_alone() -> None:
    with full_products():
        assert _settings() == _DEFAULTS
    assert _settings() == _DEFAULTS


def test_a_setting_for_one_library_is_no_error() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), torch.randn(8, 4)
    expected = qpass.quantize_graph(model, [x], progress=False)(x)
    _mkldnn_matmul()
    graph = qpass.quantize_graph(model, [x], progress=False)
    _set(_DEFAULTS)
    assert torch.equal(graph(x), expected)
