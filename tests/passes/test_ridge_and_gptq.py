from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import ConfigError
from qpass.nn import QuantizedConv, QuantizedLayer
from qpass.passes import ridge_and_gptq
from tests.learning import UNCOMPENSATED, check_report_compares_with


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5)).split(8))


def quantize(vit: nn.Module, batches: list[Tensor], **changes: object) -> fx.GraphModule:
    config = {"preset": "w3a8", **UNCOMPENSATED, **changes}
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
    assert QuantizedConv in moved
    assert len(moved) == 2


def test_the_file_is_the_same_network(rounded: fx.GraphModule, batches: list[Tensor], tmp_path: Path) -> None:
    path = qpass.export_onnx(rounded, tmp_path / "model.onnx")
    assert qpass.verify_onnx(rounded, path, batches[0]).passed


def test_the_report_compares_with_the_float_weights(vit: nn.Module, batches: list[Tensor], rounded: fx.GraphModule) -> None:
    check_report_compares_with(vit, rounded, batches[0][:8])


def test_one_batch_is_enough(vit: nn.Module, batches: list[Tensor]) -> None:
    whole = quantize(vit, batches[:1], weight_rounding="error-feedback", compensate_activations=True)
    assert whole(batches[0]).isfinite().all()


def test_weights_make_up_for_narrow_inputs(vit: nn.Module, batches: list[Tensor]) -> None:
    """On images that none of it has seen."""
    unseen = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    errors = [
        (quantize(vit, batches, preset="w8a3", compensate_activations=compensate)(unseen) - vit(unseen)).square().sum().item()
        for compensate in (False, True)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_float_inputs_leave_nothing_to_make_up_for(vit: nn.Module, batches: list[Tensor]) -> None:
    """The weights are those of plain error feedback that follows no drift."""
    rules = {"*": {"activation": None, "post_softmax": None}}
    own = quantize(vit, batches[:2], rules=rules, compensate_activations=True)
    plain = quantize(vit, batches[:2], rules=rules)
    for name, tensor in plain.state_dict().items():
        if name.endswith("codes"):
            assert torch.equal(tensor, own.state_dict()[name]), name


def test_a_share_of_nothing_is_gptq(vit: nn.Module, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the drift the first layer, whose input is the same in both networks, keeps its codes and later ones do not."""
    monkeypatch.setattr(ridge_and_gptq, "DRIFT_SHARES", (0.0,))
    plain = quantize(vit, batches[:2], weight_rounding="error-feedback")
    monkeypatch.setattr(ridge_and_gptq, "DRIFT_SHARES", (1.0,))
    drifting = quantize(vit, batches[:2], weight_rounding="error-feedback")
    names = [name for name, module in plain.named_modules() if isinstance(module, QuantizedLayer)]
    same = [torch.equal(plain.get_submodule(n).codes, drifting.get_submodule(n).codes) for n in names]  # type: ignore[arg-type]
    assert not all(same)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "w3a8", "weight": {"residual_rank": 4}}, "with a residual_rank"),
        ({"preset": "w3a8", "rules": {"head": {"weight": {"residual_rank": 4}}}}, "with a residual_rank"),
    ],
)
def test_what_needs_the_float_weights_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"weight_rounding='error-feedback' {message}"):
        qpass.QuantConfig.from_any({**config, "weight_rounding": "error-feedback"})


@pytest.mark.parametrize("change", [{"weight_rounding": "error-feedback"}, {"compensate_activations": True}])
def test_learning_before_the_fold_is_refused(change: dict[str, object]) -> None:
    (name, value), *_ = change.items()
    with pytest.raises(ConfigError, match=f"{name}={value!r} with order='three-stage'"):
        qpass.QuantConfig.from_any({"preset": "ias-vit-w4a4", **change})
