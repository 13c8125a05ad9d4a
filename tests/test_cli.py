from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from qpass.cli import main
from tests.models import small_vit

MODEL = "tests.models:small_vit"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str) -> None:
    """One line on standard error, exit code 2."""
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images labelled by the float model, which so has a top-1 of 100 %."""
    x = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=x.numpy(), y=small_vit()(x).argmax(1).numpy())
    return path


@pytest.fixture(scope="module")
def output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    result = run("quantize", MODEL, "--calib", data, "--config", "w8a8", "--output", folder, "--batch-size", 8)
    assert result.exit_code == 0, result.output
    return folder


def test_quantize_writes_everything(output: Path) -> None:
    names = {"model.onnx", "model.qpass", "float.onnx", "report.html", "report.json", "settings.json"}
    assert {path.name for path in output.iterdir()} == names
    sizes = json.loads((output / "report.json").read_text())["sizes"]
    assert sizes["file model.onnx"] == (output / "model.onnx").stat().st_size


def test_a_recipe_that_learns_keeps_its_blocks_and_reports_them(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: aiqvit-w4a4\nreconstruction: {ranks: [2, 4], search_steps: 2, steps: 3, batch_size: 4}\n")
    options = ("--calib", data, "--config", recipe, "--checkpoint-dir", tmp_path / "blocks", "--output", tmp_path / "out")
    result = run("quantize", MODEL, *options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "blocks").iterdir()} == {
        "run.json",
        "blocks.0.safetensors",
        "blocks.1.safetensors",
    }
    assert not (tmp_path / "out" / "blocks").exists()
    assert "learned block" in result.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Learned blocks" in page
    assert "The rank that the search chose" in page


def test_a_schedule_is_for_recipes_that_learn(data: Path, tmp_path: Path) -> None:
    result = run("quantize", MODEL, "--calib", data, "--config", "w8a8", "--schedule", "full", "--output", tmp_path / "out")
    assert result.exit_code != 0
    assert "'w8a8' learns nothing" in result.output
    assert not (tmp_path / "out").exists()


def test_a_target_is_named_before_work_starts_and_kept_in_the_file(data: Path, tmp_path: Path) -> None:
    options = ("--calib", data, "--config", "w8a8", "--output", tmp_path / "out")
    refused = run("quantize", MODEL, *options, "--target", "openvin")
    assert refused.exit_code == 2
    assert "no target is called 'openvin'; did you mean 'openvino'?" in refused.output
    refused = run("quantize", MODEL, *options, "--weight-type", "int9")
    assert "no weight type is called 'int9'; did you mean 'int8'?" in refused.output
    assert not (tmp_path / "out").exists()
    assert run("quantize", MODEL, *options, "--target", "openvino", "--weight-type", "uint8").exit_code == 0
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert (metadata["qpass.target"], metadata["qpass.weight_type"]) == ("openvino", "uint8")
    wanted = "file for openvino, INFERENCE_PRECISION_HINT=f32; exact on every processor"
    assert wanted in run("report", tmp_path / "out").output.replace("\n", " ")
    assert wanted in (tmp_path / "out" / "report.html").read_text()
    assert run("verify", tmp_path / "out").exit_code == 0


def test_evaluate_measures_float_graph_and_file(output: Path, data: Path) -> None:
    result = run("evaluate", output, "--data", data)
    assert result.exit_code == 0, result.output
    rows = {line.split("│")[1].strip(): line.split("│")[2] for line in result.output.splitlines() if line.count("│") == 4}
    assert rows["float, onnxruntime"].strip().startswith("100.00%")
    assert rows["quantized, torch"] == rows["quantized, onnxruntime"]


def test_verify_passes_and_fails_with_the_exit_code(output: Path, tmp_path: Path) -> None:
    result = run("verify", output)
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.output
    import shutil

    import onnx

    broken = shutil.copytree(output, tmp_path / "broken")
    model = onnx.load(broken / "model.onnx")
    scale = next(t for t in model.graph.initializer if t.name == "gelu_quantizer.scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    onnx.save(model, broken / "model.onnx")
    result = run("verify", broken)
    assert result.exit_code == 2
    assert "FAILED" in result.output


def test_bench_and_report(output: Path) -> None:
    result = run("bench", output, "--batch", 2, "--threads", 1, "--runs", 2, "--json")
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ["float", "quantized"]
    (output / "report.html").unlink()
    result = run("report", output)
    assert result.exit_code == 0, result.output
    assert "blocks.1" in result.output
    assert (output / "report.html").read_text().startswith("<!doctype html>")


def test_help_teaches() -> None:
    text = run("--help").output
    for command in ("demo", "quantize", "evaluate", "verify", "bench", "report"):
        assert command in text
        assert run(command, "--help").exit_code == 0


def test_demo(tmp_path: Path) -> None:
    result = run("demo", "--output", tmp_path / "demo", "--epochs", 2, "--config", "w8a8")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if "w8a8" in line and "│" in line)
    assert "yes" in row
    assert (tmp_path / "demo" / "w8a8" / "model.onnx").exists()


class TestBadInput:
    """Each is refused with one line, and the output folder holds nothing."""

    def check(self, folder: Path, message: str, *arguments: object) -> None:
        assert_refused(run("quantize", *arguments, "--output", folder / "out"), message)
        assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []

    def test_unknown_names(self, tmp_path: Path, data: Path) -> None:
        self.check(tmp_path, "did you mean 'w4a4'?", MODEL, "--calib", data, "--config", "w4a4x")
        self.check(tmp_path, "no model is called 'deit_tinny_patch16_224'", "deit_tinny_patch16_224", "--calib", data)
        self.check(tmp_path, "cannot be imported", "tests.models:none", "--calib", data)

    def test_data(self, tmp_path: Path) -> None:
        self.check(tmp_path, "does not exist", MODEL, "--calib", tmp_path / "none.zip")
        (tmp_path / "images").mkdir()
        self.check(tmp_path, "holds no image", MODEL, "--calib", tmp_path / "images")
        (tmp_path / "images" / "a.png").write_bytes(b"broken")
        self.check(tmp_path, "a.png: is not a readable image", MODEL, "--calib", tmp_path / "images")
        np.save(tmp_path / "nan.npy", np.full((4, 3, 32, 32), np.nan, np.float32))
        self.check(tmp_path, "NaN or infinite values", MODEL, "--calib", tmp_path / "nan.npy")
        np.save(tmp_path / "shape.npy", np.zeros((4, 1, 5, 5), np.float32))
        self.check(tmp_path, "does not run on inputs of shape", MODEL, "--calib", tmp_path / "shape.npy")

    def test_a_truncated_checkpoint(self, tmp_path: Path, data: Path) -> None:
        from safetensors.torch import save_file

        path = tmp_path / "weights.safetensors"
        save_file(small_vit().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-50])
        self.check(tmp_path, "weights.safetensors: cannot be read", MODEL, "--checkpoint", path, "--calib", data)
        save_file({"head.weight": torch.zeros(2, 2)}, path)
        self.check(tmp_path, "weights.safetensors: lacks", MODEL, "--checkpoint", path, "--calib", data)

    def test_a_checkpoint_never_runs_code(self, tmp_path: Path, data: Path) -> None:
        import os

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.system, (f"touch {tmp_path}/ran",)

        torch.save({"x": Evil()}, tmp_path / "evil.pth")
        self.check(tmp_path, "evil.pth: cannot be read", MODEL, "--checkpoint", tmp_path / "evil.pth", "--calib", data)
        assert not (tmp_path / "ran").exists()

    def test_a_model_that_cannot_be_captured(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((4, 8), np.float32))
        self.check(tmp_path, "torch.export cannot capture the model", "tests.models:Branching", "--calib", tmp_path / "x.npy")

    def test_an_output_that_is_a_file(self, tmp_path: Path, data: Path) -> None:
        (tmp_path / "out").write_text("mine")
        assert_refused(run("quantize", MODEL, "--calib", data, "--output", tmp_path / "out"), "cannot be made")
        assert (tmp_path / "out").read_text() == "mine"

    def test_folders_that_quantize_did_not_write(self, tmp_path: Path, data: Path) -> None:
        assert_refused(run("evaluate", tmp_path, "--data", data), "has no settings.json")
        assert_refused(run("verify", tmp_path), "has no settings.json")
        assert_refused(run("report", tmp_path), "has no report.json")
        assert_refused(run("bench", tmp_path / "m.onnx"), "no such file")
