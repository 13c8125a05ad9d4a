"""The judge of quantized graphs is the float model that the caller gave."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

import qpass
from qpass.data.batches import ModelInputs, model_inputs
from qpass.errors import QPassError


def quantized(model: nn.Module, batches: Sequence[Any], config: Any = "w8a8", **options: Any) -> fx.GraphModule:
    """Quantizes without a word on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return qpass.quantize_graph(model, batches, config, progress=False, **options)


def judge(
    model: nn.Module,
    batches: Sequence[Any],
    others: Sequence[Any] = (),
    *,
    config: Any = "w8a8",
    decibels: float = 25.0,
    folder: Path | None = None,
    twin: nn.Module | None = None,
) -> fx.GraphModule:
    """Quantizes a model and holds the result to the float model.

    With every layer left in float the graph must give what the model gives; quantized, its signal over its error must be at
    least ``decibels``, and the same in a second call. All on the batches and on ``others``, of which some may have other row
    counts. With a folder the file is verified there and what is saved and loaded gives the same bits. A twin is the judge where the
    model itself computes in another precision.
    """
    calls = [model_inputs(batch, model) for batch in [*batches, *others]]
    wanted = [leaves(call(copy.deepcopy(twin or model), inputs)) for inputs in calls]
    assert_same_float(quantized(model, batches, {"preset": "w8a8", "rules": {"*": None}}), calls, wanted)
    graph = quantized(model, batches, config)
    for inputs, outputs in zip(calls, wanted, strict=True):
        first = leaves(call(graph, inputs))
        assert signal_to_error(outputs, first) >= decibels
        assert identical(first, leaves(call(graph, inputs))), "the second call differs"
    if folder is not None:
        check_files(graph, calls[-1:], folder)
    return graph


def assert_same_float(graph: fx.GraphModule, calls: Sequence[ModelInputs], wanted: Sequence[Sequence[Any]]) -> None:
    """The float graph gives the model's outputs up to float32's rounding, twice in a row."""
    for inputs, outputs in zip(calls, wanted, strict=True):
        for _ in range(2):
            found = leaves(call(graph, inputs))
            assert len(found) == len(outputs)
            for y, z in zip(outputs, found, strict=True):
                assert type(y) is type(z), (type(y), type(z))
                if isinstance(y, Tensor):
                    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5 * scale_of(y), equal_nan=True)
                else:
                    assert y == z


def check_files(graph: fx.GraphModule, calls: Sequence[ModelInputs], folder: Path) -> Path:
    """The ONNX file is verified on every call, and what was saved and loaded gives the same bits; returns the ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = qpass.export_onnx(graph, folder / "model.onnx")
        for inputs in calls:
            verified = qpass.verify_onnx(graph, path, inputs, strict=False)
            assert verified.passed, str(verified)
        loaded = qpass.load(qpass.save(graph, folder / "model.safetensors"))
    for inputs in calls:
        assert identical(leaves(call(graph, inputs)), leaves(call(loaded, inputs))), "what was saved and loaded differs"
    return path


def call(model: nn.Module, inputs: ModelInputs) -> Any:
    """Calls a model on copies of the inputs, which it may write into."""
    args, kwargs = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tuple(inputs))
    with torch.no_grad():
        return model(*args, **kwargs)


def leaves(outputs: Any) -> list[Any]:
    """Returns what nested outputs hold, in order; mappings of any class in the order of their keys."""
    if isinstance(outputs, Mapping):
        return [leaf for value in outputs.values() for leaf in leaves(value)]
    return pytree.tree_leaves(outputs)


def signal_to_error(outputs: Sequence[Any], found: Sequence[Any]) -> float:
    """Returns the lowest ratio of all floating outputs, in decibels; whatever is no floating tensor must be equal."""
    assert len(outputs) == len(found)
    lowest = math.inf
    for y, z in zip(outputs, found, strict=True):
        if isinstance(y, Tensor) and y.is_floating_point():
            assert y.shape == z.shape, f"shape {tuple(z.shape)} instead of {tuple(y.shape)}"
            finite = y.isfinite()
            assert torch.equal(finite, z.isfinite()), "other places are NaN or infinite"
            y, z = y[finite].double(), z[finite].double()
            error = (y - z).square().sum()
            lowest = min(lowest, math.inf if error == 0 else float(10 * torch.log10(y.square().sum() / error)))
        else:
            assert torch.equal(y, z) if isinstance(y, Tensor) else y == z, (y, z)
    return lowest


def identical(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Tells whether outputs are equal to the bit, NaN included."""
    same = lambda y, z: torch.equal(y.nan_to_num(1234.5), z.nan_to_num(1234.5)) if isinstance(y, Tensor) else y == z  # noqa: E731
    return len(first) == len(second) and all(same(y, z) for y, z in zip(first, second, strict=True))


def scale_of(value: Any) -> float:
    """Returns the greatest finite magnitude, 1 for what has none."""
    if not isinstance(value, Tensor) or not value.numel():
        return 1.0
    return (
        max(float(value[value.isfinite()].abs().max()), 1e-6) if value.is_floating_point() and value.isfinite().any() else 1.0
    )


def result_or_refusal(function: Callable[[], Any]) -> tuple[Any, str]:
    """Returns what a function gives and no message, or nothing and the message of the QPassError that it raises."""
    try:
        return function(), ""
    except QPassError as error:
        return None, str(error)
