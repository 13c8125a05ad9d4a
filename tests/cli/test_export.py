"""Another file from a folder's graph: verified, with the same outputs, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.cli import main
from qpass.cli.run_folder import exported_name
from tests.backends.onnx_qdq.explicit_form import check_explicit_form
from tests.cli.folders import write_folder, write_wrong_files


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(quantized: fx.GraphModule, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("export") / "out", quantized, exported, {"size": [32, 32]})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_of_another_form_computes_the_same(
    folder: Path, quantized: fx.GraphModule, images: Tensor, tmp_path: Path
) -> None:
    before, path = contents(folder), tmp_path / "other.onnx"
    result = run("export", folder, "--target", "openvino", "--weight-type", "uint8", "--output", path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["file"], found["bytes"], found["target"]) == (str(path), path.stat().st_size, "openvino")
    assert found["exact_on"] == "every processor"
    assert found["options"] == {"INFERENCE_PRECISION_HINT": "f32"}
    assert found["verified"]["passed"]
    assert "attention stays in float in OpenVINO" in result.stderr
    assert contents(folder) == before
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (metadata["qpass.target"], metadata["qpass.weight_type"]) == ("openvino", "uint8")
    assert json.loads(metadata["qpass.preprocessing"]) == {"size": [32, 32]}
    torch.testing.assert_close(OrtSession(path)(images), quantized(images), rtol=0, atol=0.05)


def test_a_graph_that_a_target_cannot_express_is_refused(folder: Path) -> None:
    before = contents(folder)
    result = run("export", folder, "--target", "tensorrt")
    assert result.exit_code == 2
    assert "target: tensorrt cannot express x: a zero point" in result.stderr
    assert "qpass quantize --target tensorrt" in result.stderr
    assert contents(folder) == before


@pytest.mark.slow
def test_a_file_for_tensorrt_says_that_it_was_not_run_there(
    vit: nn.Module, images: Tensor, exported: Path, tmp_path: Path
) -> None:
    graph = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "signed_codes": True}, progress=False)
    folder = write_folder(tmp_path / "out", graph, exported, {"size": [32, 32]})
    result = run("export", folder, "--target", "tensorrt")
    assert result.exit_code == 0, result.output
    path = folder / "model-tensorrt.onnx"
    assert "exact on ARM and x86 with VNNI in onnxruntime; not run in TensorRT" in result.stdout
    assert "verified: PASSED" in result.stdout
    wanted = f"note: {path.name} is verified numerically in onnxruntime's CPU, and was not run in TensorRT"
    assert wanted in result.stderr
    assert check_explicit_form(path)


def test_the_default_name_says_what_the_file_is() -> None:
    assert exported_name("openvino", "auto") == "model-openvino.onnx"
    assert exported_name("onnxruntime", "uint8") == "model-onnxruntime-uint8.onnx"


@pytest.mark.slow
def test_a_file_beside_the_others_that_is_not_verified(folder: Path) -> None:
    result = run("export", folder, "--no-verify")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"written: {folder / 'model-onnxruntime.onnx'}, ")
    assert "verified" not in result.stdout
    (folder / "model-onnxruntime.onnx").unlink()


@pytest.mark.slow
def test_a_wrong_file_has_its_own_exit_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wrong_files(monkeypatch)
    result = run("export", folder, "--output", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "verified: FAILED: " in result.stdout


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    for message, *options in (
        ("target: no target is called 'openvin'; did you mean 'openvino'?", "--target", "openvin"),
        ("weight_type: no weight type is called 'int9'", "--weight-type", "int9"),
        ("is the folder's own file; expected another name", "--output", folder / "model.onnx"),
        ("the folder does not exist", "--output", tmp_path / "none" / "m.onnx"),
    ):
        result = run("export", folder, *options)
        assert result.exit_code == 2
        assert message in result.stderr
    assert "has no settings.json" in run("export", tmp_path).stderr
    assert contents(folder) == before
    images = (folder / "preprocessing.json").read_text()
    for damaged in ("{", "5"):
        (folder / "preprocessing.json").write_text(damaged)
        assert "preprocessing.json: is damaged" in run("export", folder).stderr
    (folder / "preprocessing.json").write_text(images)
