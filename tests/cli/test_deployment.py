"""What ``qpass quantize`` writes for those who run the file: metadata, preprocessing.json and run.py."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import qpass
from qpass.cli import main
from qpass.cli.transforms import model_transform, read_names
from qpass.data import ImageTransform
from qpass.errors import ConfigError, DataError
from qpass.zoo.source_model import SourceModel

MODEL = "tests.models:small_vit"
HALF = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(8):
        values = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(values).resize((60, 45), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_a_run_leaves_a_folder_that_runs_by_itself(images: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"kind {i}\n" for i in range(10)))
    out = tmp_path / "out"
    options = ("--calib", images, "--crop", 32, "--resize", 40, *HALF, "--class-names", tmp_path / "names.txt", "--output", out)
    result = run("quantize", MODEL, *options)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    how = json.loads((out / "preprocessing.json").read_text())
    for name in ("model.onnx", "float.onnx"):
        metadata = {entry.key: entry.value for entry in onnx.load(out / name).metadata_props}
        assert json.loads(metadata["qpass.preprocessing"]) == how
    assert (how["size"], how["resize"], how["mean"], how["classes"][3]) == ([32, 32], 40, [0.5] * 3, "kind 3")
    command = [sys.executable, "-I", "run.py", "--save", "out.npz", *sorted(images.iterdir())]
    alone = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.count("kind") == 8 * 5
    transform = ImageTransform(crop=32, resize=40, mean=(0.5,) * 3, std=(0.25,) * 3)
    inputs = torch.stack([transform(Image.open(path)) for path in sorted(images.iterdir())])
    expected = qpass.load(out / "model.qpass")(inputs).numpy()
    np.testing.assert_allclose(np.load(out / "out.npz")["output"], expected, rtol=0, atol=0.02 * expected.std())

    arrays = tmp_path / "x.npy"
    np.save(arrays, inputs.numpy())
    assert run("quantize", MODEL, "--calib", arrays, "--output", out).exit_code == 0
    assert not {"run.py", "preprocessing.json"} & {path.name for path in out.iterdir()}, "the earlier run's do not belong here"


class TestTransforms:
    OWN = SourceModel(network=torch.nn.Identity(), transform=None)
    KNOWN = SourceModel(network=torch.nn.Identity(), transform=ImageTransform(crop=8, fit="stretch", resize=(9, 9)))

    def test_imagenets_mean_is_not_used_in_silence(self) -> None:
        with pytest.warns(UserWarning, match="does not say how its images are normalized: ImageNet's mean and std are used"):
            assert model_transform(self.OWN, Path("images/")) == (ImageTransform(), True)

    @pytest.mark.parametrize("name", ["x.npy", "x.npz"])
    def test_arrays_need_none(self, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert model_transform(self.OWN, Path(name)) == (ImageTransform(), False)

    def test_options_come_before_the_models(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            transform, known = model_transform(self.OWN, Path("images/"), mean=(0.1,), std=(0.2,))
            assert (transform.mean, transform.std, known) == ((0.1,), (0.2,), True)
            changed, _ = model_transform(self.KNOWN, Path("images/"), crop=6, resize=7)
        assert changed == ImageTransform(crop=6, resize=7)

    def test_mean_and_std_go_together(self) -> None:
        with pytest.raises(ConfigError, match="--mean, --std: one of them is given; expected both, or neither"):
            model_transform(self.OWN, Path("images/"), mean=(0.1,))


@pytest.mark.parametrize(
    ("text", "message"), [("a\n\nb\n", "line 2 is empty"), (" \n", "names.txt: is empty"), (None, "does not exist")]
)
def test_class_names_are_lines(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5;0.5"), "--mean: got '0.5;0.5'; expected numbers such as 0.5,0.5,0.5"),
        (("--mean", "0.5"), "--mean, --std: one of them is given"),
        (("--mean", "0.5,0.5", "--std", "1,1"), "transform.mean and std: got"),
        (("--mean", "0", "--std", "0"), "transform.std: got"),
    ],
)
def test_bad_options_are_refused(options: tuple[str, ...], message: str, images: Path, tmp_path: Path) -> None:
    result = run("quantize", MODEL, "--calib", images, *options, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
