from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import ConfigError
from qpass.nn import QuantizedConv2d, QuantizedLayer
from qpass.passes import error_feedback
from tests.learning import check_report_compares_with


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5)).split(8))


def quantize(vit: nn.Module, batches: list[Tensor], **changes: object) -> fx.GraphModule:
    config = {"preset": "w3a8", "weight_rounding": "nearest", **changes}
    return qpass.quantize_graph(vit, batches, config, progress=False)


@pytest.fixture(scope="module")
def rounded(vit: nn.Module, batches: list[Tensor]) -> fx.GraphModule:
    return quantize(vit, batches, weight_rounding="error-feedback")


def test_the_network_comes_nearer_on_images_that_it_has_not_seen(
    vit: nn.Module, batches: list[Tensor], rounded: fx.GraphModule
) -> None:
    unseen = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    nearest = quantize(vit, batches)
    errors = [(graph(unseen) - vit(unseen)).square().sum().item() for graph in (nearest, rounded)]
    assert errors[1] < 0.8 * errors[0]


def test_every_layer_but_its_rounding_is_as_it_was(vit: nn.Module, batches: list[Tensor], rounded: fx.GraphModule) -> None:
    """Scales and zero points are those of rounding to nearest; every kind of layer has other codes."""
    nearest = quantize(vit, batches).state_dict()
    for name, tensor in rounded.state_dict().items():
        if "quantizer." in name and "_quantized" in name:
            assert torch.equal(tensor, nearest[name]), name
    moved = {
        type(module)
        for name, module in rounded.named_modules()
        if isinstance(module, QuantizedLayer) and not torch.equal(module.codes, nearest[f"{name}.codes"])  # type: ignore[arg-type]
    }
    assert QuantizedConv2d in moved
    assert len(moved) == 2


def test_the_file_is_the_same_network(rounded: fx.GraphModule, batches: list[Tensor], tmp_path: Path) -> None:
    path = qpass.export_onnx(rounded, tmp_path / "model.onnx")
    assert qpass.verify_onnx(rounded, path, batches[0]).passed


def test_the_report_compares_with_the_float_weights(vit: nn.Module, batches: list[Tensor], rounded: fx.GraphModule) -> None:
    check_report_compares_with(vit, rounded, batches[0][:8])


def test_one_batch_is_enough(vit: nn.Module, batches: list[Tensor]) -> None:
    assert quantize(vit, batches[:1], weight_rounding="error-feedback")(batches[0]).isfinite().all()


def test_a_share_of_nothing_is_gptq(vit: nn.Module, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the drift the first layer, whose input is the same in both networks, keeps its codes and later ones do not."""
    monkeypatch.setattr(error_feedback, "DRIFT_SHARES", (0.0,))
    plain = quantize(vit, batches[:2], weight_rounding="error-feedback")
    monkeypatch.setattr(error_feedback, "DRIFT_SHARES", (1.0,))
    drifting = quantize(vit, batches[:2], weight_rounding="error-feedback")
    names = [name for name, module in plain.named_modules() if isinstance(module, QuantizedLayer)]
    same = [torch.equal(plain.get_submodule(n).codes, drifting.get_submodule(n).codes) for n in names]  # type: ignore[arg-type]
    assert not all(same)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "ias-vit-w4a4"}, "with order='three-stage'"),
        ({"preset": "w3a8", "weight": {"residual_rank": 4}}, "with a residual_rank"),
        ({"preset": "w3a8", "rules": {"head": {"weight": {"residual_rank": 4}}}}, "with a residual_rank"),
    ],
)
def test_what_needs_the_float_weights_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"weight_rounding='error-feedback' {message}"):
        qpass.QuantConfig.from_any({**config, "weight_rounding": "error-feedback"})
