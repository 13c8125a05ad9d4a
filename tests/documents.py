"""What the tests of the documents read: pages, their blocks of code, and what the blocks find in the current folder."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
#: What people read as it is written. Tables of results are written by commands.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
#: A block below this comment is not run; the comment says why.
NOT_RUN = re.compile(r"<!-- (?:not run: (.+)|(?:main|test) command) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A block of code of a page: why it is not run, or ''."""

    language: str
    code: str
    line: int
    not_run: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        why = NOT_RUN.search(text[: found.start()])
        yield Block(found[1], found[2], text[: found.start()].count("\n") + 2, why[1] or ".ci/run runs it" if why else "")


def prepare(text: str) -> None:
    """Makes, in the current folder, whatever of ``FILES`` the text of a page names."""
    for name, make in FILES.items():
        if name in text:
            make(Path(name))


def _images(folder: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 40, 40, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        path = folder / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _zip(path: Path, seed: int) -> None:
    folder = path.with_suffix(".unpacked")
    _images(folder, seed)
    files = sorted(folder.rglob("*.png"))
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
        archive.writestr("labels.csv", "file,label\n" + "".join(f"{file.name},{file.parent.name[-1]}\n" for file in files))
    shutil.rmtree(folder)


def _weights(path: Path) -> None:
    safetensors.torch.save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), path)


def _photo(path: Path) -> None:
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(path)


def _hugging_face(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 96}
    ViTForImageClassification(ViTConfig(image_size=64, **sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def _yolos(folder: Path) -> None:
    from transformers import YolosConfig, YolosForObjectDetection

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 96}
    YolosForObjectDetection(YolosConfig(image_size=[64, 64], num_detection_tokens=5, **sizes)).save_pretrained(folder)


def _coco(folder: Path) -> None:
    _images(folder)
    files = sorted(folder.rglob("*.png"))
    images, annotations = [], []
    for index in range(164):
        shutil.copy(files[index % len(files)], folder / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 40, "width": 40})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}
        annotations.append({"id": index + 1, "image_id": index, "category_id": 1, **box})
    found = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    Path("annotations").mkdir()
    Path("annotations/instances_val2017.json").write_text(json.dumps(found), encoding="utf-8")


def _modelnet(folder: Path) -> None:
    (folder / "cube").mkdir(parents=True)
    names = [f"cube_{index:04d}" for index in range(8)]
    (folder / "modelnet40_shape_names.txt").write_text("cube\n", encoding="utf-8")
    (folder / "modelnet40_train.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    points = np.random.default_rng(0).normal(size=(1024, 6))
    text = "\n".join(",".join(f"{value:.4f}" for value in row) for row in points)
    for name in names:
        (folder / "cube" / f"{name}.txt").write_text(text, encoding="utf-8")


def _shapenet(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text("Cube\t1\n", encoding="utf-8")
    points = np.random.default_rng(0).normal(size=(1024, 6))
    text = "\n".join(" ".join(f"{value:.4f}" for value in row) + f" {float(index % 2)}" for index, row in enumerate(points))
    names = [f"shape_data/1/{index}" for index in range(3)]
    for name in names:
        (folder / "1" / f"{Path(name).name}.txt").write_text(text, encoding="utf-8")
    (folder / "train_test_split").mkdir()
    (folder / "train_test_split" / "shuffled_test_file_list.json").write_text(json.dumps(names), encoding="utf-8")


#: What the pages name, small.
FILES: dict[str, Callable[[Path], None]] = {
    "images/": _images,
    "validation/": lambda path: _images(path, 1),
    "images.zip": lambda path: _zip(path, 0),
    "validation.zip": lambda path: _zip(path, 1),
    "weights.safetensors": _weights,
    "model.safetensors": _weights,
    "photo.jpg": _photo,
    "./my-vit": _hugging_face,
    "./yolos": _yolos,
    "val2017": _coco,
    "modelnet40_normal_resampled": _modelnet,
    "shapenetcore_partanno_segmentation_benchmark_v0_normal": _shapenet,
}
