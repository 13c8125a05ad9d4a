"""Models as people have them: other number formats, odd weights, inputs and modes are handled or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass
from tests.models import small_vit


def quantize(model: nn.Module, x: Tensor, preset: str = "w8a8") -> torch.fx.GraphModule:
    return qpass.quantize_graph(model, [x], preset, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "preset"),
    [
        (torch.float16, "mixed-w4a5"),
        (torch.bfloat16, "w8a8"),
        (torch.float64, "mixed-w4a5"),
        (torch.float8_e4m3fn, "w8a8"),
    ],
)
def test_other_float_types_are_quantized_from_float32(dtype: torch.dtype, preset: str, images: Tensor, tmp_path: Path) -> None:
    model = small_vit().to(dtype)
    with pytest.warns(UserWarning, match=str(dtype).removeprefix("torch.")):
        graph = quantize(model, images.to(dtype), preset)
    assert next(model.parameters()).dtype == dtype, "the model is left as it was"
    rounded = images.to(dtype).float()
    expected = quantize(copy.deepcopy(model).float(), rounded, preset)
    torch.testing.assert_close(graph(rounded), expected(rounded), rtol=0, atol=0)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), rounded).passed


def without_values(model: nn.Module) -> None:
    model.blocks[1].mlp.fc1.to("meta")


def lazy(model: nn.Module) -> None:
    model.head = nn.LazyLinear(3)


def sparse(model: nn.Module) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach().to_sparse())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_values, r"blocks.1.mlp.fc1.weight: no values, only a shape; expected weights in memory; load a checkpoint"),
        (lazy, r"head.weight: no values"),
        (sparse, r"head.weight: a tensor of layout torch.sparse_coo; expected dense weights; make it dense first"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_weights_without_values_are_named(change: Callable[[nn.Module], None], message: str, images: Tensor) -> None:
    model = small_vit()
    change(model)
    with pytest.raises(qpass.UnsupportedError, match=message):
        quantize(model, images)


@pytest.mark.parametrize(
    ("model", "name"), [(len, "a builtin_function_or_method"), (nn.Linear, "Linear"), (None, "a NoneType"), ({}, "a dict")]
)
def test_what_is_no_model_is_refused(model: nn.Module, name: str, images: Tensor) -> None:
    with pytest.raises(qpass.TraceError, match=f"model: got {name}; expected a torch.nn.Module"):
        quantize(model, images)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, images: Tensor) -> None:
    model = small_vit()
    model.blocks[1].mlp.fc1.weight.data[3, 2] = value
    with pytest.raises(qpass.UnsupportedError, match=r"blocks.1.mlp.fc1.weight: NaN or infinite values.*finite weights"):
        quantize(model, images)


def test_activations_that_overflow_are_named(images: Tensor) -> None:
    model = small_vit()
    for layer in (model.blocks[0].mlp.fc1, model.blocks[0].mlp.fc2):
        layer.weight.data *= 1e30
    with pytest.raises(qpass.CalibrationError, match=r"blocks.1.norm1.*NaN or infinite values") as raised:
        quantize(model, images)
    assert "\n" not in str(raised.value), "torch.fx adds the graph's text"


def dead(model: nn.Module) -> None:
    model.blocks[0].mlp.fc1.weight.data[3] = 0
    model.blocks[0].mlp.fc1.bias.data[3] = 0
    model.blocks[0].norm1.weight.data[5] = 0
    model.blocks[0].norm1.bias.data[5] = 0


def zero(model: nn.Module) -> None:
    for layer in (model.blocks[0].mlp.fc2, model.blocks[1].attn.qkv):
        layer.weight.data.zero_()
        layer.bias.data.zero_()


def outlier(model: nn.Module) -> None:
    model.blocks[0].mlp.fc1.weight.data[0] *= 1e6


def tied(model: nn.Module) -> None:
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight


def shared(model: nn.Module) -> None:
    model.blocks[1] = model.blocks[0]


def hooked(model: nn.Module) -> None:
    model.blocks[0].register_forward_hook(lambda module, inputs, output: output * 2)


def normed(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.fc1)


def in_training(model: nn.Module) -> None:
    model.train()


def channels_last(model: nn.Module) -> None:
    model.to(memory_format=torch.channels_last)


#: What a recipe meets: weights that fold and round are shared or odd, or only the tracing is.
CHANGES = {
    **dict.fromkeys((dead, zero, tied, shared, normed), "mixed-w4a5"),
    **dict.fromkeys((outlier, hooked, in_training, channels_last), "w8a8"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "preset"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_odd_models_are_the_same_network_in_their_file(
    change: Callable[[nn.Module], None], preset: str, images: Tensor, tmp_path: Path
) -> None:
    model = small_vit()
    change(model)
    was_training = model.training
    graph = quantize(model, images, preset)
    assert model.training == was_training
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), images).passed
    with torch.no_grad():
        expected = model.eval()(images)
    error = ((graph(images) - expected).norm() / expected.norm()).item()
    assert error < (0.1 if preset == "w8a8" else 0.6) or change is outlier, "8 bits hold no outlier of a million"


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "zeros": torch.zeros_like,
    "transposed": lambda x: x.transpose(2, 3),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "one sample": lambda x: x[:1],
    "with derivatives": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_odd_inputs_calibrate(name: str, vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    x = INPUTS[name](images)
    graph = quantize(vit, x, "mixed-w4a5")
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x.detach()).passed


def test_inputs_of_inference_mode_calibrate(vit: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        x = images * 1
    torch.testing.assert_close(
        quantize(vit, x, "mixed-w4a5")(images), quantize(vit, images, "mixed-w4a5")(images), rtol=0, atol=0
    )


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["DataParallel", "compile"])
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module], vit: nn.Module, images: Tensor) -> None:
    graph = quantize(wrap(copy.deepcopy(vit)), images).cpu()  # DataParallel moves its module to the GPU if there is one
    torch.testing.assert_close(graph(images), quantize(vit, images)(images))


def test_script_modules_are_refused(vit: nn.Module, images: Tensor) -> None:
    with pytest.raises(qpass.UnsupportedError, match=r"a module of torch\.jit; expected eager modules"):
        quantize(torch.jit.trace(vit, images[:2]), images)
