"""The page in headless Chromium: what it shows, and that its networks are those that onnxruntime runs natively."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import pytest
from PIL import Image
from torch import Tensor, fx, nn

from qpass.backends.deployed.run import best, open_network, read_image, run
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.forced import COMPUTED, CodesOfFile
from qpass.backends.onnxruntime.layer_check import LayerCheck, check_layers
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from tests.examples.javascript import EXAMPLES, HERE, needs_packages, node, run_script

pytestmark = pytest.mark.slow
#: A photograph in the public domain that matplotlib has.
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
IMAGES = ("photo.jpg", "turned.jpg", "photo.png", "grey.png")


@pytest.fixture(scope="module")
def chromium() -> None:
    needs_packages("browser")
    found = subprocess.run([node(), EXAMPLES / "browser" / "headless.mjs"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    subprocess.run([node(), "build.mjs"], cwd=EXAMPLES / "browser", check=True)


@pytest.fixture(scope="module")
def codes(exported: Path, quantized: fx.GraphModule, images: Tensor) -> tuple[TorchRun, CodesOfFile]:
    reference = TorchRun(quantized, ModelInputs((images,), {}))
    return reference, CodesOfFile(exported, reference.quantizers, reference.codes)


@pytest.fixture(scope="module")
def out(exported: Path, vit: nn.Module, images: Tensor, codes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as qpass quantize writes it, with files and images that the page refuses."""
    folder = tmp_path_factory.mktemp("out")
    shutil.copy(exported, folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    export_float(trace(vit, (images,)), folder / "float.onnx", metadata=metadata)
    onnx.save(codes[1].forced(), folder / "forced.onnx")
    silent = onnx.load(exported)
    del silent.metadata_props[:]
    onnx.save(silent, folder / "silent.onnx")
    (folder / "text.onnx").write_text("no network")
    (folder / "text.jpg").write_text("no image")
    with Image.open(PHOTO) as photo:
        part = photo.crop((150, 50, 350, 200))
    turned = Image.Exif()
    turned[0x0112] = 6
    part.save(folder / "photo.jpg", quality=90)
    part.save(folder / "turned.jpg", exif=turned)
    part.save(folder / "photo.png")
    part.convert("L").save(folder / "grey.png")
    return folder


@pytest.fixture(scope="module")
def seen(chromium: None, out: Path, images: Tensor, codes: tuple[TorchRun, CodesOfFile]) -> Any:
    """Everything that one visit of Chromium shows."""
    tensor = lambda array: {"type": str(array.dtype), "dims": array.shape, "data": array}  # noqa: E731
    plain = {"x": tensor(images.numpy())}
    forced = {name: tensor(array) for name, array in codes[1].feed().items()}
    given = {
        "out": str(out),
        "images": [str(out / name) for name in IMAGES],
        "refused": [str(out / name) for name in ("silent.onnx", "text.onnx", "text.jpg")],
        "runs": {"model.onnx": plain, "forced.onnx": plain | forced},
    }
    return run_script(HERE / "browser" / "in_browser.mjs", given=given)


def test_it_shows_what_run_py_prints(seen: Any, out: Path) -> None:
    session, how = open_network(out / "model.onnx")
    lines = best(run(session, how, read_image(out / IMAGES[0], how)), how["classes"], 5)
    expected = [(line.split("%  ")[1], float(line.split("%")[0])) for line in lines]
    assert [name for name, _ in seen["page"]["classes"]] == [name for name, _ in expected]
    shares = [float(share.removesuffix(" %")) for _, share in seen["page"]["classes"]]
    assert shares == pytest.approx([share for _, share in expected], abs=0.06)
    assert re.fullmatch(r"Quantized file: [\d.,]+ ms, and [\d.,]+ ms to prepare the image.", seen["page"]["status"])


def test_the_camera_and_a_drop_give_images_too(seen: Any) -> None:
    assert len(seen["page"]["ofCamera"]) == 5
    assert seen["page"]["ofCamera"] != seen["page"]["classes"]
    assert seen["page"]["ofDrop"] == seen["page"]["classes"]


def test_it_compares_sizes_and_times_and_fits_a_narrow_window(seen: Any, out: Path) -> None:
    float_row, quantized_row, ratio = seen["page"]["table"]
    sizes = [(out / name).stat().st_size for name in ("float.onnx", "model.onnx")]
    assert [float_row[:2], quantized_row[:2]] == [
        [name, f"{size / 1e6:.1f} MB"] for name, size in zip(("Float", "Quantized"), sizes, strict=True)
    ]
    assert ratio[:2] == ["Ratio", f"{sizes[0] / sizes[1]:.2f} ×"]
    assert all(re.fullmatch(r"[\d.,]+ ms", cell) for row in (float_row, quantized_row) for cell in row[2:])
    assert seen["page"]["width"] == 360
    assert seen["page"]["threads"] == len(os.sched_getaffinity(0))  # the page is isolated


def test_images_are_decoded_as_pillow_does(seen: Any, out: Path) -> None:
    """To the bit, while both have the same library for JPEG. Orientation tags are not applied."""
    for name, found in zip(IMAGES, seen["decoded"], strict=True):
        with Image.open(out / name) as image:
            expected = np.asarray(image.convert("RGBA")).astype(int)
        off = np.abs(found["data"].reshape(found["height"], found["width"], 4) - expected)
        assert off.max() <= (0 if name.endswith(".png") else 1), (
            f"{name}: differs by {off.max()} levels, {off.mean()} on average"
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_equal_native_ones_to_float_rounding(threads: int, seen: Any, exported: Path, images: Tensor) -> None:
    (found,) = seen["outputs"][threads - 1]["model.onnx"].values()
    expected = OrtSession(exported)(images).numpy()
    np.testing.assert_allclose(found["data"].reshape(found["dims"]), expected, rtol=0, atol=1e-5 * expected.std())


@pytest.mark.parametrize("threads", [1, 2])
def test_every_layer_gives_torchs_codes(threads: int, seen: Any, codes: tuple[TorchRun, CodesOfFile]) -> None:
    """Each layer is fed with torch's codes, as in ``verify_onnx``, so that a tie cannot spread."""
    reference, file = codes
    outputs = seen["outputs"][threads - 1]["forced.onnx"]

    def computed(quantizer: str) -> Tensor:
        tensor = outputs[f"{quantizer}.codes{COMPUTED}"]
        return file.read(quantizer, tensor["data"].reshape(tensor["dims"]).copy())

    layers: tuple[LayerCheck, ...] = check_layers(reference, computed)
    assert len(layers) == len(reference.quantizers) > 10
    assert [layer.failure for layer in layers if not layer.passed] == []


def test_errors_say_what_is_wrong(seen: Any) -> None:
    errors = seen["errors"]
    assert errors["silent.onnx"].startswith("silent.onnx does not say how its images are preprocessed")
    assert errors["text.onnx"] == "text.onnx is no ONNX file, or is cut off"
    assert errors["text.jpg"] == "text.jpg: is no image that this browser can read"
    assert errors["vendor"].startswith("onnxruntime-web is not in vendor/: run npm ci and npm run build")
    assert errors["wasm"] == "this browser has no WebAssembly, or it is switched off"
    assert errors["nothing"] == "Choose a quantized file and an image."
