"""``qpass quantize ./folder``: a folder of transformers goes in, and one that optimum loads comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.cli import main
from qpass.cli.run_folder import read_settings
from qpass.report.sensitivity import SensitivityReport
from tests.pretrained import image_and_text_model, write_classifier, write_detector, write_images, write_segmenter

pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class Quantized:
    """An output folder of ``qpass quantize``, and the images that it was calibrated with."""

    def __init__(self, folder: Path, write: Callable[[Path], Path], *options: object) -> None:
        self.source, self.images, self.output = write(folder / "model"), write_images(folder / "images"), folder / "out"
        result = run("quantize", self.source, "--calib", self.images, *options, "--output", self.output, "--no-verify")
        assert result.exit_code == 0, result.output

    def inputs(self) -> torch.Tensor:
        """The images as the network sees them."""
        transform = read_settings(self.output).transform
        return torch.stack([transform(Image.open(path)) for path in sorted(self.images.iterdir())])

    def file(self) -> dict[str, torch.Tensor]:
        """The outputs of the file in our runner."""
        found = OrtSession(self.output / "model.onnx").run({"pixel_values": self.inputs().numpy()})
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def optimum(self, kind: str) -> Any:
        """The outputs of the folder in optimum."""
        return in_optimum(kind, self.output, pixel_values=self.inputs())


def in_optimum(kind: str, folder: Path, **inputs: torch.Tensor) -> Any:
    """The outputs of a folder in a class of optimum."""
    try:
        import optimum.onnxruntime as optimum
    except ImportError as error:
        pytest.skip(f"needs optimum with onnxruntime and a transformers that it supports: {error}")
    with torch.no_grad():
        return getattr(optimum, kind).from_pretrained(folder)(**inputs)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    return Quantized(tmp_path_factory.mktemp("classifier"), write_classifier)


def test_the_file_computes_what_the_model_computes(classifier: Quantized) -> None:
    from transformers import AutoModelForImageClassification

    x = classifier.inputs()
    expected = AutoModelForImageClassification.from_pretrained(classifier.source).eval()(x).logits.detach()
    found = classifier.file()["logits"]
    assert 10 * torch.log10(expected.square().mean() / (found - expected).square().mean()) > 25
    graph = qpass.load(classifier.output / "model.qpass")
    torch.testing.assert_close(graph(x).logits, found, rtol=0, atol=0.02 * expected.std().item())


def test_the_output_is_a_folder_of_transformers(classifier: Quantized) -> None:
    from transformers import AutoConfig, AutoImageProcessor

    assert AutoConfig.from_pretrained(classifier.output).id2label == {0: "cat", 1: "dog", 2: "bird"}
    processor, image = AutoImageProcessor.from_pretrained(classifier.output), Image.open(classifier.images / "0.png")
    found = processor(images=image, return_tensors="pt")["pixel_values"]
    assert (found - classifier.inputs()[0]).abs().max() <= 4 / 255  # torchvision's filters round otherwise than pillow's


def test_its_sensitivity_is_measured_from_either_folder(classifier: Quantized, tmp_path: Path) -> None:
    """The output folder names the model's folder, and both give the same figures."""
    result = run("sensitivity", classifier.output, "--output", tmp_path / "a", "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    found = SensitivityReport.from_json(result.stdout)
    assert any("attention" in path for tensor in found.tensors for path in tensor.paths)
    result = run("sensitivity", classifier.source, "--calib", classifier.images, "--output", tmp_path / "b", "--json")
    assert result.exit_code == 0, result.output
    assert SensitivityReport.from_json(result.stdout).tensors == found.tensors


def test_a_run_of_another_model_leaves_no_companions(classifier: Quantized, tmp_path: Path) -> None:
    folder = shutil.copytree(classifier.output, tmp_path / "out")
    assert read_settings(folder).companions == ("config.json", "preprocessor_config.json")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32))
    for name in ("sensitivity.json", "model-openvino.onnx", "model-mine.onnx"):
        (folder / name).write_text("of the other model")
    options = ("--no-verify", "--no-images", "--json")
    result = run("quantize", "tests.models:small_vit", "--calib", tmp_path / "x.npy", "--output", folder, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["folder"], found["recipe"], found["verified"]) == (str(folder), "w8a8", None)
    assert found["bytes"] == (folder / "model.onnx").stat().st_size
    assert found["bytes"] < found["float_bytes"] == (folder / "float.onnx").stat().st_size
    assert json.loads((folder / "report.json").read_text())["preview"]["images"] == []
    settings = read_settings(folder)
    assert settings.command[:3] == ("qpass", "quantize", "tests.models:small_vit")
    for name in ("model.onnx", "model.qpass", "float.onnx"):
        assert settings.digests[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    names = {"model.onnx", "model.qpass", "float.onnx", "report.html", "report.json", "settings.json"}
    assert {path.name for path in folder.iterdir()} == {*names, "model-mine.onnx"}
    assert settings.companions == ()


def test_its_script_names_the_classes(classifier: Quantized) -> None:
    command = [sys.executable, "-I", "run.py", "--save", "out.npz", "--top", "1", *sorted(classifier.images.iterdir())]
    alone = subprocess.run(command, capture_output=True, text=True, cwd=classifier.output)
    assert alone.returncode == 0, alone.stderr
    np.testing.assert_array_equal(
        np.load(classifier.output / "out.npz")["logits"].argmax(1), classifier.file()["logits"].argmax(1)
    )
    assert alone.stdout.split()[-1] in ("cat", "dog", "bird")


def test_optimum_loads_a_classifier_and_gives_the_same(classifier: Quantized) -> None:
    assert torch.equal(classifier.optimum("ORTModelForImageClassification").logits, classifier.file()["logits"])


@pytest.mark.nightly
def test_optimum_loads_a_segmenter_and_gives_the_same(tmp_path: Path) -> None:
    segmenter = Quantized(tmp_path, write_segmenter)
    assert segmenter.file()["logits"].shape == (8, 3, 16, 16)
    assert torch.equal(segmenter.optimum("ORTModelForSemanticSegmentation").logits, segmenter.file()["logits"])


@pytest.mark.nightly
def test_optimum_loads_a_detector_as_a_custom_task_and_gives_the_same(tmp_path: Path) -> None:
    detector = Quantized(tmp_path, write_detector, "--image-size", "32x48")
    assert json.loads((detector.output / "preprocessing.json").read_text())["size"] == [32, 48]
    found = detector.optimum("ORTModelForCustomTasks")
    for name in ("logits", "pred_boxes"):
        assert torch.equal(found[name], detector.file()[name])


@pytest.mark.nightly
def test_optimum_loads_a_model_of_images_and_texts_and_gives_the_same(tmp_path: Path) -> None:
    model, generator = image_and_text_model(), torch.Generator().manual_seed(0)
    texts = torch.randint(0, 60, (3, 8), generator=generator)
    texts[:, -1] = 63
    images = torch.randn(6, 3, 32, 32, generator=generator)
    batch = {"input_ids": texts, "attention_mask": torch.ones_like(texts), "pixel_values": images}
    graph = qpass.quantize_graph(model, [batch], progress=False)
    expected = qpass.onnxruntime_model(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"))(**batch)
    model.config.save_pretrained(tmp_path)
    found = in_optimum("ORTModelForZeroShotImageClassification", tmp_path, **batch)
    for name in ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        assert torch.equal(found[name], expected[name])


def test_a_detector_needs_a_size_for_its_images(tmp_path: Path) -> None:
    source, images = write_detector(tmp_path / "model"), write_images(tmp_path / "images")
    result = run("quantize", source, "--calib", images, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "gives images of various sizes" in result.stderr
    assert "--image-size" in result.stderr
    both = run("quantize", source, "--calib", images, "--image-size", 32, "--crop", 32, "--output", tmp_path / "out")
    assert "--image-size: given with --crop or --resize" in both.stderr
    odd = run("quantize", source, "--calib", images, "--image-size", "32by48", "--output", tmp_path / "out")
    assert "--image-size: got '32by48'; expected a side or HEIGHTxWIDTH" in odd.stderr
