from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.onnx._internal.exporter import _fx_passes, _registration

import qpass
from qpass.backends.onnx_qdq import exporter_steps, to_onnx
from qpass.backends.onnx_qdq.exporter_steps import Steps, needed_steps
from tests.models import small_vit

OPSET = 21


@contextmanager
def all_steps() -> Iterator[Steps]:
    yield Steps()


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """What exports did."""
    found: list[Steps] = []

    @contextmanager
    def recorded() -> Iterator[Steps]:
        with needed_steps() as steps:
            yield steps
        found.append(steps)

    monkeypatch.setattr(to_onnx, "needed_steps", recorded)
    return found


def traced(model: nn.Module, *args: Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(model.eval(), [args], "w8a8", progress=False)


def operators(model: ir.Model) -> list[tuple[Any, ...]]:
    return [
        (node.domain, node.op_type, *(value and value.shape and str(value.shape) for value in node.outputs))
        for node in model.graph
    ]


def constants(model: ir.Model) -> list[bytes]:
    return sorted(value.const_value.tobytes() for value in model.graph.initializers.values() if value.const_value is not None)


@pytest.mark.parametrize("make", [small_vit], ids=["ViT"])
def test_the_file_is_that_of_all_steps(make: Any, last: list[Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced(make(), torch.randn(4, 3, 32, 32))
    short = to_onnx.to_onnx(graph, OPSET)
    assert [steps.decomposed for steps in last] == [False]
    monkeypatch.setattr(to_onnx, "needed_steps", all_steps)
    whole = to_onnx.to_onnx(graph, OPSET)
    assert operators(short) == operators(whole)
    assert constants(short) == constants(whole)


class Normed(nn.Module):
    """torch takes a BatchNorm that is not folded apart: it has no translation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu())


def outputs(model: ir.Model, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def float_graph(model: nn.Module, x: Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(model.eval(), [x], {"preset": "w8a8", "rules": {"*": None}}, progress=False)


def test_operators_without_a_translation_are_decomposed(last: list[Steps]) -> None:
    model, x = Normed(), torch.randn(8, 6)
    written = to_onnx.to_onnx(float_graph(model, x), OPSET)
    assert [steps.decomposed for steps in last] == [True]
    np.testing.assert_allclose(outputs(written, x), model(x).detach().numpy(), atol=1e-5)


def test_all_steps_are_taken_where_the_needed_ones_do_not_suffice(last: list[Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_steps, "_is_final", lambda node, registry: True)
    model, x = Normed(), torch.randn(8, 6)
    written = to_onnx.to_onnx(float_graph(model, x), OPSET)
    np.testing.assert_allclose(outputs(written, x), model(x).detach().numpy(), atol=1e-5)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y.flatten(1).view_as(y) - 1, (x,))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


@pytest.mark.parametrize("model", [Branches(), Counts()], ids=["nested graphs", "a buffer that is written"])
def test_other_programs_are_decomposed(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    monkeypatch.setattr(_fx_passes, "decompose_with_registry", lambda program, registry: tried.append(program) or program)
    with needed_steps() as steps:
        program = torch.export.export(model, (torch.randn(2, 3),))
        assert _fx_passes.decompose_with_registry(program, registry) is program
    assert steps.decomposed
    assert tried == [program]


def test_other_threads_take_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    built, decomposed = [], []
    monkeypatch.setattr(
        _registration.ONNXRegistry, "from_torchlib", staticmethod(lambda opset_version: built.append(opset_version))
    )
    monkeypatch.setattr(_fx_passes, "decompose_with_registry", lambda program, registry: decomposed.append(program))

    def export() -> None:
        _registration.ONNXRegistry().from_torchlib(opset_version=OPSET)
        _fx_passes.decompose_with_registry("a program", None)

    with needed_steps():
        thread = threading.Thread(target=export)
        thread.start()
        thread.join()
    assert (built, decomposed) == ([OPSET], ["a program"])


def test_a_table_of_translations_is_built_once_and_not_shared() -> None:
    with needed_steps():
        first, second = (_registration.ONNXRegistry().from_torchlib(opset_version=OPSET) for _ in range(2))
    fresh = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    assert first.functions.keys() == second.functions.keys() == fresh.functions.keys()
    target = next(iter(first.functions))
    first.functions[target].clear()
    assert second.functions[target]


def test_a_table_has_operators_that_are_registered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that was exported after a model without torchvision would have had no translation of its nms."""
    built = []
    monkeypatch.setattr(
        _registration.ONNXRegistry,
        "from_torchlib",
        staticmethod(lambda opset_version: built.append(opset_version) or _registration.ONNXRegistry()),
    )
    with needed_steps():
        _registration.ONNXRegistry().from_torchlib(opset_version=OPSET)
        _registration.ONNXRegistry().from_torchlib(opset_version=OPSET)
        library = torch.library.Library("qpass_test_later", "DEF")
        library.define("added(Tensor x) -> Tensor")
        _registration.ONNXRegistry().from_torchlib(opset_version=OPSET)
    assert built == [OPSET, OPSET]


def test_another_exporter_takes_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_fx_passes, "decompose_with_registry")
    with needed_steps() as steps:
        assert not hasattr(_fx_passes, "decompose_with_registry")
    assert steps.decomposed
