"""Files that are damaged or made to harm: each is refused by name, or read as what it still is; nothing else happens."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import fx

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.cli.transforms import saved_transform
from qpass.data import CocoImages, ImageTransform, image_batches, open_images
from qpass.errors import QPassError
from qpass.report import QuantReport
from qpass.zoo.timm_models import create_model
from tests.models import small_vit

CROP = ImageTransform(crop=8)
DAMAGES = ("truncated", "flipped", "overwritten", "repeated", "emptied")


def damaged(content: bytes, kind: str, chance: random.Random) -> bytes:
    """Returns a file's content after an accident."""
    data = bytearray(content)
    place = chance.randrange(len(data))
    if kind == "truncated":
        return bytes(data[:place])
    if kind == "flipped":
        for _ in range(chance.choice((1, 3, 20))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "overwritten":
        data[place : place + 64] = chance.randbytes(min(64, len(data) - place))
    elif kind == "repeated":
        data[place:place] = data[max(0, place - 200) : place]
    else:
        data = bytearray(len(data))
    return bytes(data)


def _image_bytes(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(buffer, format_)
    return buffer.getvalue()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", "file,label\na.png,1\nb.jpg,0\n")
        archive.writestr("a.png", _image_bytes("PNG"))
        archive.writestr("b.jpg", _image_bytes("JPEG"))


def _coco(path: Path) -> None:
    (path.parent / "image.png").write_bytes(_image_bytes("PNG"))
    annotation = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0,
                  "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}  # fmt: skip
    image = {"id": 1, "file_name": "image.png", "width": 12, "height": 12}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "box"}]}
    path.write_text(json.dumps(content))


def _read_images(path: Path) -> None:
    for _ in image_batches(open_images(path, CROP), 2):
        pass


def _read_coco(path: Path) -> None:
    images = CocoImages(path.parent, path)
    for index in range(len(images)):
        images[index]


def _run_onnx(path: Path) -> None:
    OrtSession(path)(torch.zeros(1, 3, 32, 32))


#: By the name of the file: what writes a sound one, and what reads it.
KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "graph.qpass": (lambda path: None, qpass.load),
    "weights.safetensors": (
        lambda path: safetensors.torch.save_file(small_vit().state_dict(), path),
        lambda path: create_model("tests.models:small_vit", path),
    ),
    "weights.pth": (
        lambda path: torch.save(small_vit().state_dict(), path),
        lambda path: create_model("tests.models:small_vit", path),
    ),
    "recipe.yaml": (lambda path: qpass.QuantConfig.from_any("aiqvit-w4a4").to_yaml(path), qpass.QuantConfig.from_any),
    "images.zip": (_zip, _read_images),
    "image.png": (lambda path: path.write_bytes(_image_bytes("PNG")), lambda path: _read_images(path.parent)),
    "image.jpg": (lambda path: path.write_bytes(_image_bytes("JPEG")), lambda path: _read_images(path.parent)),
    "images.npz": (lambda path: np.savez(path, x=np.zeros((2, 3, 8, 8), np.float32), y=np.zeros(2)), _read_images),
    "images.npy": (lambda path: np.save(path, np.zeros((2, 3, 8, 8), np.float32)), _read_images),
    "coco.json": (_coco, _read_coco),
    "settings.json": (
        lambda path: path.write_text(json.dumps({"model": "m", "calibration": "c", "transform": {"crop": 8}})),
        lambda path: saved_transform(path.parent, None, None),
    ),
    "model.onnx": (lambda path: None, _run_onnx),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, quantized: fx.GraphModule, exported: Path) -> dict[str, bytes]:
    """The content of a sound file of each kind, all of which can be read."""
    contents = {}
    for name, (write, read) in KINDS.items():
        path = tmp_path_factory.mktemp("sound") / name
        if name == "graph.qpass":
            qpass.save(quantized, path)
        elif name == "model.onnx":
            path.write_bytes(exported.read_bytes())
        else:
            write(path)
        read(path)
        contents[name] = path.read_bytes()
    return contents


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read(name: str, damage: str, case: int, sound: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "coco.json":
        _coco(path)
    path.write_bytes(damaged(sound[name], damage, random.Random(f"{name} {damage} {case}")))
    before = {file.name for file in tmp_path.iterdir()}
    message = None
    try:
        KINDS[name][1](path)
    except QPassError as error:
        message = str(error)
    assert message is None or str(tmp_path) in message
    assert {file.name for file in tmp_path.iterdir()} == before


def test_a_zip_that_points_outside_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.png", _image_bytes("PNG"))
        archive.writestr("/root.png", _image_bytes("PNG"))
    _read_images(path)
    assert {file.name for file in tmp_path.rglob("*")} == {"inside", "images.zip"}


@pytest.mark.slow
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w", force_zip64=True) as entry:
        for _ in range(40):
            entry.write(bytes(2**24))
    tracemalloc.start()
    with pytest.raises(QPassError, match=r"images.zip/a.png: is too large unpacked"):
        _read_images(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "a.png")
    with pytest.raises(QPassError, match=r"a.png: is not a readable image"):
        _read_images(tmp_path)


def test_yaml_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*lines, "preset: w8a8", "weight: *a8"]))
    with pytest.raises(QPassError, match="aliases"):
        qpass.QuantConfig.from_any(path)


@pytest.mark.parametrize("content", ["!!python/object/apply:os.system ['true']", "preset: !!python/name:os.system"])
def test_yaml_runs_no_code(content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(QPassError, match=r"recipe\.yaml: cannot be read"):
        qpass.QuantConfig.from_any(tmp_path / "recipe.yaml")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"head.weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(QPassError, match=r"weights.pth: cannot be read"):
        create_model("tests.models:small_vit", tmp_path / "weights.pth")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": 3}', '{"model": {}}'])
def test_a_report_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, QPassError)):
        QuantReport.from_json(content)


def test_an_onnx_file_of_another_network_is_no_proof(quantized: fx.GraphModule, images: torch.Tensor, tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3, 32, 32]) for name in ("x", "output")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["output"])], "other", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(QPassError):
        qpass.verify_onnx(quantized, tmp_path / "model.onnx", images)
