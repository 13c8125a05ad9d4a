from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from torch import fx

import qpass
from qpass.cli import main
from qpass.cli.outcomes import add_to_report
from qpass.config import QuantConfig
from qpass.config.presets import PRESETS
from qpass.graph.facts import facts_of, update_facts
from qpass.report import QuantReport
from qpass.report.data import Speed, Verified
from qpass.report.sensitivity import SensitivityReport
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.folder_lock import alone_in
from tests.backends.onnx_qdq.explicit_form import check_explicit_form
from tests.cli.folders import make_wrong, write_wrong_files
from tests.models import small_vit

MODEL = "tests.models:small_vit"
HALF = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")

#: What a user's own module may hold.
FACTORIES = """
import sys
import torch

VALUE = 5
READY = torch.nn.Linear(6, 2)

def make(): return torch.nn.Linear(6, 2)
def wants(width): return torch.nn.Linear(width, 2)
def number(): return 5
class MedianOfRows(torch.nn.Module):
    def __init__(self): super().__init__(); self.layer = torch.nn.Linear(32, 8)
    def forward(self, images): return self.layer(images).median(-1).values
def raises(): raise RuntimeError("no luck")
def leaves(): sys.exit(0)

class Inside:
    make = staticmethod(make)
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str) -> None:
    """Exit code 2, and one line on standard error besides warnings."""
    assert result.exit_code == 2, result.output
    *warned, error = result.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert all(line.startswith("warning: ") for line in warned)


def labelled_images(path: Path, seed: int) -> Path:
    """Writes images labelled by the float model, which so has a top-1 of 100 %."""
    x = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    np.savez(path, x=x.numpy(), y=small_vit()(x).argmax(1).numpy())
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_images(tmp_path_factory.mktemp("data") / "images.npz", seed=3)


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_images(tmp_path_factory.mktemp("data") / "others.npz", seed=4)


@pytest.fixture(scope="module")
def output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    result = run("quantize", MODEL, "--calib", data, "--output", folder, "--batch-size", 8, "--no-verify")
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
def test_quantize_writes_everything(output: Path) -> None:
    names = {"model.onnx", "model.qpass", "float.onnx", "report.html", "report.json", "settings.json"}
    assert {path.name for path in output.iterdir()} == names
    sizes = json.loads((output / "report.json").read_text())["sizes"]
    assert sizes["file model.onnx"] == (output / "model.onnx").stat().st_size


def test_quantize_verifies_and_ends_with_what_matters(
    output: Path, data: Path, other_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[str]()
    monkeypatch.setattr(
        "qpass.cli.outputs.write_whole", lambda path, text: (written.append(path.name), write_whole(path, text))
    )
    options = ("--batch-size", 8, "--max-memory", 0, "--eval", other_data)
    again = run("quantize", MODEL, "--calib", data, "--output", tmp_path / "out", *options)
    assert again.exit_code == 0, again.output
    accuracy, speed, size, verified, following = again.output.splitlines()[-5:]
    found = re.fullmatch(
        r"accuracy: top-1 (\d+\.\d\d)% on 24 images of --eval, (\d+\.\d\d) ± \d\.\d\d points below float", accuracy
    )
    assert found is not None, accuracy
    assert float(found[1]) + float(found[2]) == 100.0, "float is right on every image"
    assert written == ["report.json", "report.html"], "the report is written once, with the verdict"
    assert re.fullmatch(r"speed:    \d+\.\d\d times float in onnxruntime, one image, one thread", speed)
    share = 100 * (output / "model.onnx").stat().st_size / (output / "float.onnx").stat().st_size
    assert size.endswith(f"MB, {share:.0f} % of float")
    assert verified.startswith("verified: PASSED: ")
    assert following.startswith("next: qpass report ")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verified"]["passed"]


@pytest.mark.slow
def test_quantize_fails_if_its_file_is_another_network(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wrong_files(monkeypatch)
    result = run("quantize", MODEL, "--calib", data, "--output", tmp_path / "out", "--batch-size", 8)
    assert result.exit_code == 2
    assert "verified: FAILED: as written: " in result.output
    assert "next:" not in result.output


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_blocks_of_an_unfinished_run_are_kept_from_other_runs(data: Path, tmp_path: Path) -> None:
    output, recipe = tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text("preset: aiqvit-w4a4\nreconstruction: {ranks: [2, 4], search_steps: 2, steps: 3, batch_size: 4}\n")
    (output / "blocks").mkdir(parents=True)
    (output / "blocks" / "run.json").write_text("{}")
    (output / "blocks" / "blocks.0.safetensors").write_bytes(b"learned")
    plain = ("quantize", MODEL, "--calib", data, "--config", "w8a8", "--output", output)
    refused = run(*plain)
    assert refused.exit_code == 2
    assert "blocks: holds blocks of a run that learns and has not finished" in refused.output.replace("\n", " ")
    assert "--output" in refused.output
    assert "--discard" in refused.output
    refused = run("quantize", MODEL, "--calib", data, "--config", recipe, "--output", output)
    assert refused.exit_code == 2
    assert "holds blocks of another run" in refused.output.replace("\n", " ")
    assert (output / "blocks" / "blocks.0.safetensors").read_bytes() == b"learned"
    assert {path.name for path in output.iterdir()} == {"blocks"}
    done = run(*plain, "--discard")
    assert done.exit_code == 0, done.output
    assert not (output / "blocks").exists()


def test_a_folder_that_another_run_writes_to_is_refused(data: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path):
        refused = run("quantize", MODEL, "--calib", data, "--config", "w8a8", "--output", tmp_path)
    assert refused.exit_code == 2
    assert f"another run writes here, process {os.getpid()}" in refused.output.replace("\n", " ")


def test_a_network_that_onnx_cannot_express_is_refused_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qpass, "quantize_graph", lambda *_, **__: pytest.fail("the network was quantized first"))
    (tmp_path / "ownmedian.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    refused = run("quantize", "ownmedian:MedianOfRows", "--calib", data, "--output", tmp_path / "out")
    assert_refused(refused, "torch.onnx cannot export the graph")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_schedule_is_for_recipes_that_learn(data: Path, tmp_path: Path) -> None:
    result = run("quantize", MODEL, "--calib", data, "--config", "w8a8", "--schedule", "full", "--output", tmp_path / "out")
    assert result.exit_code != 0
    assert "'w8a8' learns nothing" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
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
    assert qpass.load(tmp_path / "out" / "model.qpass") is not None
    assert json.loads((tmp_path / "out" / "report.json").read_text())["config"]["fused_attention"] is True
    wanted = "file for openvino, INFERENCE_PRECISION_HINT=f32; exact on every processor"
    assert wanted in run("report", tmp_path / "out").output.replace("\n", " ")
    assert wanted in (tmp_path / "out" / "report.html").read_text()
    assert run("verify", tmp_path / "out").exit_code == 0


@pytest.mark.slow
def test_a_file_for_tensorrt(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--calib", data, "--output", out, "--target", "tensorrt")
    refused = run("quantize", MODEL, *options, "--config", "w4a4")
    assert refused.exit_code == 2
    assert "activation: 4 bits with signed_codes; expected 8: TensorRT" in refused.output
    refused = run("quantize", MODEL, *options, "--weight-type", "uint8")
    assert "weight_type: TensorRT reads no uint8" in refused.output
    assert not out.exists()
    result = run("quantize", MODEL, *options)
    assert result.exit_code == 0, result.output
    assert "model.onnx is verified numerically in onnxruntime's CPU, and was not run in TensorRT" in result.output
    assert "file for tensorrt" in result.output
    assert check_explicit_form(out / "model.onnx")
    assert json.loads((out / "report.json").read_text())["config"]["signed_codes"] is True


@pytest.mark.slow
def test_evaluate_measures_float_graph_and_file(output: Path, data: Path) -> None:
    result = run("evaluate", output, "--data", data)
    assert result.exit_code == 0, result.output
    rows = {line.split("│")[1].strip(): line.split("│")[2] for line in result.output.splitlines() if line.count("│") == 4}
    assert rows["float, onnxruntime"].strip().startswith("100.00%")
    assert rows["quantized, torch"] == rows["quantized, onnxruntime"]


def test_verify_passes_and_fails_with_the_exit_code(output: Path, tmp_path: Path) -> None:
    result = run("verify", output)
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()
    assert re.fullmatch(r"PASSED: [\d,]+ codes, 0 wrong, \d+ rounding ties; outputs equal within float32 rounding", line)
    assert line in (output / "report.html").read_text()
    broken = shutil.copytree(output, tmp_path / "broken")
    make_wrong(broken / "model.onnx")
    result = run("verify", broken)
    assert result.exit_code == 2
    assert result.output.startswith("FAILED: as written: ")
    found = json.loads((broken / "report.json").read_text())["verified"]
    assert not found["passed"]
    assert found["summary"].startswith(result.output.splitlines()[0])


def test_verify_without_the_calibration_images_runs_on_those_in_the_graph(output: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(output, tmp_path / "moved")
    settings = json.loads((moved / "settings.json").read_text())
    for calibration, said in (("gone", "the calibration images are no longer at gone"), ("", "the folder names no images")):
        (moved / "settings.json").write_text(json.dumps({**settings, "calibration": calibration}))
        result = run("verify", moved, "--json")
        assert result.stderr == f"warning: {said}; verifying on the 2 that the graph stores; --data names others\n"
        assert (result.exit_code, json.loads(result.stdout)["samples"]) == (0, 2)


def test_verify_says_what_proves_nothing(output: Path, tmp_path: Path) -> None:
    vague = shutil.copytree(output, tmp_path / "vague")
    graph = qpass.load(vague / "model.qpass")
    check = dataclasses.replace(facts_of(graph).source_check, bound=1.5)
    update_facts(graph, report=dataclasses.replace(facts_of(graph).report, source_check=check))
    qpass.save(graph, vague / "model.qpass")
    result = run("verify", vague)
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "PASSED (file proven, comparison with the model not informative)" in said
    assert "not informative: roundings alone change an output by as much as its size" in said


@pytest.mark.slow
def test_bench_and_report(output: Path) -> None:
    result = run("bench", output, "--batch", 2, "--threads", 1, "--runs", 2, "--json")
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ["float", "quantized"]
    page = (output / "report.html").read_text()
    assert f"{json.loads(result.stdout)['rows'][1]['speedup']:.2f}x" in page
    (output / "report.html").unlink()
    result = run("report", output)
    assert result.exit_code == 0, result.output
    assert "blocks.1" in result.output
    assert (output / "report.html").read_text().startswith("<!doctype html>")


def test_help_teaches() -> None:
    text = run("--help").output
    for command in main.commands:
        assert command in text
        assert run(command, "--help").exit_code == 0


@pytest.mark.slow
def test_sensitivity_of_a_folder_and_of_its_model_is_the_same(output: Path, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(output, tmp_path / "out")
    assert_refused(run("sensitivity", folder), f"names code to run: {MODEL}; --trust runs it")
    result = run("sensitivity", folder, "--batch-size", 8, "--top", 3, "--trust")
    assert result.exit_code == 0, result.output
    report = SensitivityReport.from_json((folder / "sensitivity.json").read_text())
    assert report.ordered[0].paths[0] in result.output
    rules = yaml.safe_load(result.output[result.output.index("rules:") : result.output.index("written:")])
    assert QuantConfig.from_any({"preset": "w8a8", **rules}).rules
    assert (folder / "sensitivity.svg").read_text().startswith("<svg")
    result = run("sensitivity", MODEL, "--calib", data, "--batch-size", 8, "--output", tmp_path / "own", "--json")
    assert result.exit_code == 0, result.output
    assert SensitivityReport.from_json(result.stdout).tensors == report.tensors
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "model_args": ["seed=1"]}))
    assert_refused(run("sensitivity", folder, "--trust"), "float.onnx: is not of the model that its settings name")
    assert_refused(run("sensitivity", folder, "--calib", data), "--calib beside a folder")
    assert_refused(run("sensitivity", MODEL, "--output", tmp_path), "--calib is missing")


@pytest.mark.nightly
def test_a_drop_is_kept_and_the_recipe_makes_the_same_file(data: Path, tmp_path: Path) -> None:
    x = torch.randn(300, 3, 32, 32, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        np.savez(tmp_path / "eval.npz", x=x.numpy(), y=small_vit()(x).argmax(1).numpy())
    options = ("--calib", data, "--batch-size", 8, "--prefer", "speed", "--eval", tmp_path / "eval.npz")
    result = run("quantize", MODEL, *options, "--max-drop", 12, "--output", tmp_path / "out", "--speed")
    assert result.exit_code == 0, result.output
    assert "* the recipe as it is" in result.output
    assert "at most 12 with 95 % confidence" in result.output
    assert "not an unbiased estimate" in " ".join(result.output.split())
    assert "the recipe as it is: 0.0" in result.stderr
    recipe = tmp_path / "out" / "recipe.yaml"
    assert QuantConfig.from_yaml(recipe) == QuantConfig.from_any("w8a8")
    result = run("quantize", MODEL, "--calib", data, "--batch-size", 8, "--config", recipe, "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    files = [(tmp_path / name / "model.onnx").read_bytes() for name in ("out", "again")]
    assert files[0] == files[1]
    result = run("quantize", MODEL, *options, "--max-drop", 0.9, "--output", tmp_path / "strict")
    assert result.exit_code == 2
    assert "error: max_drop 0.9: no candidate keeps it: the widest" in result.stderr
    assert "layers in float" in result.stdout
    assert {path.name for path in (tmp_path / "strict").iterdir()} == {"candidates"}


def test_what_a_drop_needs(tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=np.zeros((4, 3, 32, 32), np.float32))
    for options, message in (
        (("--max-drop", 1), "--max-drop without --eval"),
        (("--prefer", "size"), "--prefer without --max-drop"),
        (("--eval", tmp_path / "unlabelled.npz"), "unlabelled.npz: has no labels"),
        (("--speed",), "--speed without --max-drop"),
        (("--max-drop", 1, "--eval", tmp_path / "unlabelled.npz"), "unlabelled.npz: has no labels"),
        (("--max-drop", 1, "--eval", tmp_path / "none.zip"), "none.zip: does not exist"),
    ):
        plain = ("quantize", MODEL, "--calib", tmp_path / "unlabelled.npz", "--output", tmp_path / "out")
        assert_refused(run(*plain, *options), message)


@pytest.mark.slow
def test_calibration_images_are_not_evaluated_on(data: Path, tmp_path: Path) -> None:
    without_goal = ("quantize", MODEL, "--calib", data, "--output", tmp_path / "other", "--eval", data, "--no-verify")
    assert_refused(run(*without_goal), "evaluates a calibration sample")
    plain = ("quantize", MODEL, "--calib", data, "--output", tmp_path / "out", "--max-drop", 30, "--eval", data)
    assert_refused(run(*plain), "evaluates a calibration sample")
    assert_refused(run(*plain, "--config", "mixed-w4a5"), "a budget and max_drop both choose bit widths")
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_presets_are_listed_as_a_table_and_as_json() -> None:
    text = run("presets").output
    assert all(name in text for name in PRESETS)
    rows = json.loads(run("presets", "--json").stdout)
    assert [row["name"] for row in rows] == list(PRESETS)
    assert {row["learns"] for row in rows if row["name"].startswith("aiqvit")} == {True}


@pytest.mark.slow
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
        self.check(tmp_path, "'blocks.1.*' matches the layers inside", MODEL, "--calib", data, "--exclude", "blocks.1")

    def test_data(self, tmp_path: Path) -> None:
        self.check(tmp_path, "does not exist", MODEL, "--calib", tmp_path / "none.zip")
        (tmp_path / "images").mkdir()
        self.check(tmp_path, "holds no image", MODEL, "--calib", tmp_path / "images", *HALF)
        (tmp_path / "images" / "a.png").write_bytes(b"broken")
        self.check(tmp_path, "a.png: is not a readable image", MODEL, "--calib", tmp_path / "images", *HALF)
        np.save(tmp_path / "nan.npy", np.full((4, 3, 32, 32), np.nan, np.float32))
        self.check(tmp_path, "nan.npy, batch 0: NaN or infinite values", MODEL, "--calib", tmp_path / "nan.npy")
        np.save(tmp_path / "shape.npy", np.random.default_rng(0).normal(size=(4, 1, 5, 5)).astype(np.float32))
        self.check(tmp_path, "does not run on inputs of shape", MODEL, "--calib", tmp_path / "shape.npy")

    def test_what_lies_in_the_wrong_place(self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("model.onnx", "weights.safetensors", "images.zip"):
            (tmp_path / name).write_bytes(b"something")
        self.check(tmp_path, "model.onnx: is a file; ", "model.onnx", "--calib", data)
        self.check(tmp_path, "weights go to --checkpoint", "weights.safetensors", "--calib", data)
        swapped = ("--checkpoint", "images.zip", "--calib", "weights.safetensors")
        self.check(tmp_path, "are these weights, or the calibration images?", MODEL, *swapped)
        self.check(tmp_path, "are images and checkpoint swapped?", MODEL, *swapped[2:])

    def test_errors_about_images_name_no_argument_of_python(self, tmp_path: Path) -> None:
        for name, x in (("size", np.zeros((4, 1, 5, 5), np.float32)), ("dtype", np.ones((4, 3, 32, 32), np.int64))):
            np.save(tmp_path / f"{name}.npy", x + np.arange(4, dtype=x.dtype).reshape(4, 1, 1, 1))
            result = run("quantize", MODEL, "--calib", tmp_path / f"{name}.npy", "--output", tmp_path / "out")
            assert_refused(
                result, f"expected images that the model takes, from {tmp_path / name}.npy; arrays are used unchanged"
            )
            assert not any(argument in result.stderr for argument in ("example_inputs", "transform_fn", "calib_loader"))

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
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
        self.check(tmp_path, "torch.export cannot capture the model", "tests.models:Branching", "--calib", tmp_path / "x.npy")

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("raises", "mymod:raises(): failed: RuntimeError: no luck"),
            ("leaves", "mymod:leaves(): failed: SystemExit"),
            ("number", "mymod:number: gave a int; expected a torch.nn.Module"),
            ("wants", "mymod:wants(): failed: TypeError"),
            ("wants --model-arg width", "--model-arg: got 'width'; expected NAME=VALUE"),
            ("wants --model-arg depth=3", "failed: TypeError"),
            ("VALUE", "mymod:VALUE: is a int"),
            ("missing", "mymod:missing: cannot be imported: AttributeError"),
            ("", "mymod:: cannot be imported"),
            ("make --device nowhere", "'nowhere' cannot be used"),
            ("make --max-memory nan", "max_memory: got nan"),
            ("make --batch-size 0", "Invalid value for '--batch-size'"),
            ("make --crop -1", "Invalid value for '--crop'"),
            ("make --seed -1", "Invalid value for '--seed'"),
            ("make --calib-count x", "Invalid value for '--calib-count'"),
            ("make --num-calib x", "Invalid value for '--num-calib'"),
            ("make --schedule slow", "Invalid value for '--schedule'"),
            ("make --nonsense", "No such option"),
        ],
    )
    def test_odd_factories_and_options(
        self, factory: str, message: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, *options = factory.split(" ")
        self.in_folder(tmp_path, monkeypatch)
        self.check(tmp_path, message, f"mymod:{name}", "--calib", data, *options)

    def in_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes a module in the current folder, from which a command that was installed imports nothing."""
        (folder / "mymod.py").write_text(FACTORIES)
        (folder / "broken.py").write_text("def make(:\n")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
        monkeypatch.delitem(sys.modules, "mymod", raising=False)

    def test_a_module_that_cannot_be_imported(self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.in_folder(tmp_path, monkeypatch)
        self.check(tmp_path, "broken:make: cannot be imported: SyntaxError", "broken:make", "--calib", data)
        self.check(tmp_path, ":make: cannot be imported", ":make", "--calib", data)
        self.check(tmp_path, "..up:make: cannot be imported", "..up:make", "--calib", data)

    @pytest.mark.slow
    def test_a_factory_of_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.in_folder(tmp_path, monkeypatch)
        np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((8, 6), np.float32))
        for name in ("mymod:wants", "mymod:make", "mymod:READY", "mymod:Inside.make"):
            monkeypatch.delitem(sys.modules, "mymod", raising=False)
            given = ("--model-arg", "width=6") if name == "mymod:wants" else ()
            result = run("quantize", name, *given, "--calib", "x.npy", "--output", "out", "--no-verify")
            assert result.exit_code == 0, result.output
        monkeypatch.chdir(tmp_path.parent)
        assert run("verify", tmp_path / "out").exit_code == 0, "the settings name the data wherever they are read"

    def test_options_of_the_other_commands(self, tmp_path: Path, output: Path, data: Path) -> None:
        (tmp_path / "file.onnx").write_bytes(b"no model")
        for message, *arguments in (
            ("No such command 'quantise'", "quantise"),
            ("Missing option '--data'", "evaluate", output),
            ("Missing argument 'MODEL'", "quantize"),
            ("does not exist", "evaluate", output, "--data", tmp_path / "none"),
            ("Invalid value for '--batch-size'", "evaluate", output, "--data", data, "--batch-size", "many"),
            ("Invalid value for '--samples'", "verify", output, "--samples", 0),
            ("Invalid value for '--threads'", "bench", output, "--threads", 0),
            ("Invalid value for '--runs'", "bench", output, "--runs", 0),
            ("cannot load it", "bench", tmp_path / "file.onnx", "--baseline", output / "float.onnx"),
            ("is the baseline too", "bench", output / "float.onnx"),
            ("no such file", "bench", tmp_path / "none.onnx", "--explain"),
            ("has no report.json", "report", tmp_path),
            ("Invalid value for '--epochs'", "demo", "--epochs", 0),
            ("no preset is called 'w9a9'", "demo", "--config", "w9a9", "--output", tmp_path / "demo"),
        ):
            assert_refused(run(*arguments), message)

    def test_data_of_another_shape(self, tmp_path: Path, output: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 16, 16), np.float32), y=np.zeros(4, int))
        for command in ("evaluate", "verify"):
            assert_refused(run(command, output, "--data", tmp_path / "x.npz"), "16, 16")
        np.savez(tmp_path / "y.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.array([0, 1, 2, 10]))
        assert_refused(run("evaluate", output, "--data", tmp_path / "y.npz"), "the label 10; expected labels below 10")

    @pytest.mark.parametrize(
        "text",
        [
            *("{}", "[]", "5", "null", "", "{", '{"model": "m"}', '{"model": "m", "calibration": "c", "transform": []}'),
            *(json.dumps({"model": "m", "calibration": c, "transform": {"crop": 32}}) for c in (None, 5, ["a"], {})),
            *(
                json.dumps({"model": "m", "calibration": "c", "transform": {"crop": 32} | change})
                for change in (
                    *({"crop": 0}, {"crop": "32"}, {"crop": 4.5}, {"resize": -1}, {"mean": None}, {"mean": [0.5, 0.5]}),
                    *({"std": [0, 0, 0]}, {"std": "abc"}, {"mean": [float("nan")] * 3}, {"krop": 3}, {"mean": [1]}),
                )
            ),
        ],
    )
    def test_settings_that_are_damaged(self, text: str, tmp_path: Path, data: Path) -> None:
        (tmp_path / "settings.json").write_text(text)
        assert_refused(run("verify", tmp_path), "settings.json: is damaged")
        assert_refused(run("evaluate", tmp_path, "--data", data), "settings.json: is damaged")

    def test_an_output_that_is_a_file(self, tmp_path: Path, data: Path) -> None:
        (tmp_path / "out").write_text("mine")
        assert_refused(run("quantize", MODEL, "--calib", data, "--output", tmp_path / "out"), "cannot be made")
        assert (tmp_path / "out").read_text() == "mine"

    def test_folders_that_quantize_did_not_write(self, tmp_path: Path, data: Path) -> None:
        assert_refused(run("evaluate", tmp_path, "--data", data), "has no settings.json")
        assert_refused(run("verify", tmp_path), "has no settings.json")
        assert_refused(run("report", tmp_path), "has no report.json")
        assert_refused(run("bench", tmp_path / "m.onnx"), "no such file")


def test_brackets_in_names_are_no_markup(quantized: fx.GraphModule, tmp_path: Path) -> None:
    data = json.loads(qpass.quantization_report(quantized).to_json())
    data["model"] = "Net[/red]:smile:"
    data["layers"][0]["path"] = "blocks[0]"
    (tmp_path / "report.json").write_text(json.dumps(data))
    result = run("report", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Net[/red]:smile:" in result.output
    assert "blocks[0]" in result.output


def test_two_reports_are_compared_on_one_page(
    quantized: fx.GraphModule, quantized_4bit: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, graph in (("a", quantized), ("b", quantized_4bit)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(qpass.quantization_report(graph).to_json())
    monkeypatch.chdir(tmp_path)
    result = run("report", "a", "b")
    assert result.exit_code == 0, result.output
    assert "repq-vit-w4a4" in result.output
    assert "page: compare.html" in result.output
    assert "Settings that differ" in (tmp_path / "compare.html").read_text()
    assert run("report", "a", "b", "--output", "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_text() == (tmp_path / "compare.html").read_text()
    assert_refused(run("report", "a", "b", "--json"), "--json with two folders")
    assert_refused(run("report", "a", "--output", "x.html"), "--output with one folder")
    assert_refused(run("report", "a", "c"), "has no report.json")
    assert_refused(run("report", "a", "b", "--output", "none/x.html"), "cannot be written")


def test_a_report_has_what_verify_and_bench_find(
    tmp_path: Path, quantized: fx.GraphModule, capsys: pytest.CaptureFixture[str]
) -> None:
    report = qpass.quantization_report(quantized)
    add_to_report(tmp_path, verified=Verified(True, "PASSED", 8))
    assert list(tmp_path.iterdir()) == [], "a folder without a report stays as it is"
    (tmp_path / "report.json").write_text(report.to_json())
    add_to_report(tmp_path, verified=Verified(False, "FAILED: <3> codes", 8))
    add_to_report(tmp_path, speed=(Speed(1.5, 1, 1),))
    expected = dataclasses.replace(report, verified=Verified(False, "FAILED: <3> codes", 8), speed=(Speed(1.5, 1, 1),))
    assert QuantReport.from_json((tmp_path / "report.json").read_text()) == expected
    page = (tmp_path / "report.html").read_text()
    assert "FAILED: &lt;3&gt; codes" in page
    assert "1.50x" in page
    (tmp_path / "report.json").write_text("{}")
    add_to_report(tmp_path, verified=Verified(True, "PASSED", 8))
    assert "warning: the report does not have this result" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == "{}"


def test_names_in_an_onnx_file_do_not_move_the_cursor(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for index, node in enumerate(model.graph.node):
        node.name = f"\x1b]0;{index}\x07{node.name}"
    onnx.save(model, tmp_path / "m.onnx")
    result = run("bench", tmp_path / "m.onnx", "--explain", "--runs", 2)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\\x1b]0;" in result.output
