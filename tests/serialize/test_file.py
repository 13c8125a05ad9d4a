from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, fx

import qpass
from qpass.errors import DataError
from qpass.serialize import FORMAT
from tests.models import DictModel
from tests.serialize.forging import rewrite


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("name", ["quantized", "quantized_4bit"])
def test_a_loaded_graph_is_the_saved_one(name: str, images: Tensor, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    graph: fx.GraphModule = request.getfixturevalue(name)
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    assert torch.equal(again(images), graph(images))
    assert again(images[:3]).shape == (3, 10)
    assert qpass.quantization_report(again).to_json() == qpass.quantization_report(graph).to_json()
    path = qpass.export_onnx(again, tmp_path / "m.onnx")
    assert qpass.verify_onnx(again, path, images).passed


def test_inputs_by_name_and_dict_outputs_survive(tmp_path: Path) -> None:
    batch = {"values": torch.randn(4, 8), "scale": torch.rand(4, 1)}
    graph = qpass.quantize_graph(DictModel().eval(), [batch], progress=False)
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    for key, value in graph(**batch).items():
        assert torch.equal(again(**batch)[key], value)


@pytest.fixture
def saved(quantized: fx.GraphModule, tmp_path: Path) -> Path:
    return qpass.save(quantized, tmp_path / "m.qpass")


def test_truncated_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"m\.qpass: cannot be read"):
        qpass.load(saved)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"has no header of qpass; expected a file that qpass.save wrote"):
        qpass.load(tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        qpass.load(tmp_path / "missing.qpass")


def test_a_changed_tensor_is_noticed(saved: Path) -> None:
    rewrite(saved, lambda header, tensors: tensors["head_quantized.codes"].add_(1), forge=False)
    with pytest.raises(DataError, match=r"its digest is another.*the file is damaged"):
        qpass.load(saved)


def test_a_changed_graph_is_noticed(saved: Path) -> None:
    rewrite(saved, lambda header, tensors: header["nodes"][5].update(name="other"), forge=False)
    with pytest.raises(DataError, match=r"its digest is another.*the file is damaged"):
        qpass.load(saved)


def test_another_format_is_refused(saved: Path) -> None:
    rewrite(saved, lambda header, tensors: header.update(format=99))
    with pytest.raises(DataError, match=f"format 99; expected format {FORMAT}"):
        qpass.load(saved)


def test_a_folder_that_is_missing_is_refused(quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        qpass.save(quantized, tmp_path / "missing" / "m.qpass")
