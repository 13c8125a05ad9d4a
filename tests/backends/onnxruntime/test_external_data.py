"""Files whose weights lie beside them, as those past 2 GiB do: verified, explained, profiled, timed and run from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import explain
from qpass.backends.onnxruntime.footprint import footprint
from qpass.backends.onnxruntime.forced import CodesOfFile
from qpass.backends.onnxruntime.latency import fusion_of
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.errors import VerifyError


@pytest.fixture
def beside(exported: Path, tmp_path: Path) -> Path:
    """The small ViT's file with every weight in another file, in a folder that is not the current one."""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(exported), path, save_as_external_data=True, location="m.onnx.data", size_threshold=256)
    assert path.stat().st_size < exported.stat().st_size / 2
    return path


def test_it_is_verified_and_its_copies_hold_no_weights(quantized: fx.GraphModule, beside: Path, images: Tensor) -> None:
    assert qpass.verify_onnx(quantized, beside, images).passed
    reference = TorchRun(quantized, ModelInputs((images,), {}))
    codes = CodesOfFile(beside, reference.quantizers, reference.codes)
    for model in (codes.forced(values=True), codes.exposed()):
        assert not any(tensor.raw_data for tensor in model.graph.initializer if tensor.name.endswith("weight_codes"))
        assert model.ByteSize() < 2 * beside.stat().st_size
    assert sorted(path.name for path in beside.parent.iterdir()) == ["m.onnx", "m.onnx.data"], "nothing is written there"


def test_a_wrong_weight_beside_it_is_found(quantized: fx.GraphModule, beside: Path, images: Tensor) -> None:
    tensor = next(
        t for t in onnx.load(beside, load_external_data=False).graph.initializer if t.name == "head_quantized.weight_codes"
    )
    place = int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
    data = beside.with_name("m.onnx.data")
    content = bytearray(data.read_bytes())
    content[place] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(VerifyError, match=r"output 'output'.*head_quantized"):
        qpass.verify_onnx(quantized, beside, images)


def test_it_is_explained_profiled_timed_and_run(
    quantized: fx.GraphModule, exported: Path, beside: Path, images: Tensor
) -> None:
    plain, found = explain(exported, runs=1), explain(beside, runs=1)
    assert {cost.operator: cost.count for cost in found.operators} == {cost.operator: cost.count for cost in plain.operators}
    assert fusion_of(beside) == fusion_of(exported)
    assert footprint(beside, processes=1).size_mb > footprint(exported, processes=1).size_mb / 2
    report = qpass.benchmark_latency(beside, baseline=exported, runs=1, progress=False)
    assert [row.name for row in report.rows] == [exported.name, "quantized"], "a quantized baseline is not called float"
    torch.testing.assert_close(
        qpass.onnxruntime_model(quantized, beside)(images), qpass.onnxruntime_model(quantized, exported)(images)
    )


class _LargeTable(nn.Module):
    """2.2 GiB of constants, of which a call reads a row for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2**29 + 2**25, dtype=torch.float32).view(-1, 1024), requires_grad=False)
        self.head = nn.Linear(1024, 8)
        self.table.fill_(0.01)
        self.table[5] = torch.linspace(-1, 1, 1024)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(nn.functional.embedding(ids, self.table))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_file_past_the_limit_of_protobuf(tmp_path: Path) -> None:
    """Wants 16 GiB of memory and 7 GiB of disk."""
    torch.manual_seed(0)
    model, ids = _LargeTable().eval(), torch.tensor([[5, 1, 2**19], [5, 7, 0]])
    graph = qpass.quantize_graph(model, [ids], "w8a8", progress=False)
    del model
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert path.with_name("m.onnx.data").stat().st_size > 2**31
    report = qpass.verify_onnx(graph, path, ids)
    assert report.passed
    assert explain(path, runs=1).milliseconds > 0
    assert footprint(path, processes=1).size_mb > 2200
    np.testing.assert_allclose(qpass.onnxruntime_model(graph, path)(ids), graph(ids), rtol=1e-4, atol=1e-2)
