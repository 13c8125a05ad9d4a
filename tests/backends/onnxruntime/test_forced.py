"""Copies of a file that take codes: their inputs and outputs, and codes that are stored 128 higher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.forced import CodesOfFile
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.errors import VerifyError
from qpass.graph.edit import aten, calls


class Product(nn.Module):
    """A product of two activations, of which the second has signed codes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) @ self.two(x).mT


@pytest.fixture(scope="module")
def product() -> tuple[fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    return qpass.quantize_graph(Product().eval(), [x], "w8a8", progress=False), x  # type: ignore[return-value]


@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_codes_go_in_and_come_out_in_torchs_form(
    product: tuple[fx.GraphModule, Tensor], weight_type: str, tmp_path: Path
) -> None:
    graph, x = product
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", weight_type=weight_type)
    run = TorchRun(graph, ModelInputs((x,), {}))
    file = CodesOfFile(path, run.quantizers, run.codes)
    signed = [name for name, quantizer in run.quantizers.items() if quantizer.signed]
    assert signed
    fed = file.feed()
    for name, codes in run.codes.items():
        stored = fed[f"{name}.codes"]
        assert stored.dtype == (np.int8 if name in signed and weight_type == "int8" else np.uint8)
        offset = 128 if name in signed and weight_type == "uint8" else 0
        assert np.array_equal(stored.astype(int), codes.numpy().astype(int) + offset)
        assert torch.equal(file.read(name, stored), codes)
    assert set(file.wrong_constants().values()) == {""}


def test_a_forced_file_has_inputs_and_outputs_for_each_quantizer(
    quantized: fx.GraphModule, exported: Path, images: Tensor
) -> None:
    run = TorchRun(quantized, ModelInputs((images,), {}))
    file = CodesOfFile(exported, run.quantizers, run.codes)
    original, forced = onnx.load(exported).graph, file.forced(values=True).graph
    more = {value.name for value in forced.input} - {value.name for value in original.input}
    assert more == {f"{name}.codes" for name in run.codes}
    outputs = {value.name for value in forced.output} - {value.name for value in original.output}
    assert outputs == {f"{name}.codes.{what}" for name in run.codes for what in ("computed", "value")}
    exposed = OrtSession(file.exposed(), folder=file.folder)
    found = exposed.run({"x": images.numpy()})
    assert {f"{name}.codes" for name in run.codes} <= set(found)


def test_layers_and_what_they_read_are_found_by_name(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    run = TorchRun(quantized, ModelInputs((images,), {}))
    file = CodesOfFile(exported, run.quantizers, run.codes)
    layers = {str(n.target) for n in quantized.graph.nodes if n.op == "call_module" and "_quantized" in str(n.target)}
    products = {node.name for node in calls(quantized, aten.matmul.default)}
    assert layers < set(file.layer_outputs) <= layers | products, (
        "a product that is only quantized again has no value of its own"
    )
    first, second = "blocks_0_mlp_fc1_quantized", "blocks_0_mlp_fc2_quantized"
    assert file.input_of(second, second) != file.input_of(first, first)
    assert file.input_of(second, second) != file.layer_outputs[second]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"none")
    with pytest.raises(VerifyError, match=r"m\.onnx: cannot be read as ONNX"):
        CodesOfFile(tmp_path / "m.onnx", {}, {})
