from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qpass.data import ImageTransform, draw_images, draw_samples, image_batches, open_images
from qpass.errors import ConfigError

TRANSFORM = ImageTransform(crop=4, mean=(0.0,) * 3, std=(1.0,) * 3)
CLASSES, EACH = 8, 5


@pytest.fixture
def sorted_folder(tmp_path: Path) -> Path:
    """Forty images sorted by class, each of its own grey: 5 x class + number."""
    for index in range(CLASSES * EACH):
        path = tmp_path / "set" / f"class{index // EACH}" / f"{index % EACH}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index,) * 3).save(path)
    return tmp_path / "set"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return folder.with_suffix(".zip")


def class_of(name: str) -> str:
    return name.partition("/")[0]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_sorted_source_is_drawn_from_all_its_classes(sorted_folder: Path, kind: str) -> None:
    source = open_images(sorted_folder if kind == "folder" else zipped(sorted_folder), TRANSFORM)
    for count in (1, CLASSES, CLASSES + 3, 3 * CLASSES):
        names = draw_images(source, count).names
        assert len(set(names)) == count
        each = Counter(map(class_of, names))
        assert len(each) == min(count, CLASSES)
        assert max(each.values()) - min(each.values()) <= 1


def test_folder_and_zip_give_the_same_draw_and_each_name_its_image(sorted_folder: Path) -> None:
    drawn = draw_images(open_images(sorted_folder, TRANSFORM), 12, seed=3)
    packed = draw_images(open_images(zipped(sorted_folder), TRANSFORM), 12, seed=3)
    assert drawn.names == packed.names
    assert packed.labels is None
    assert [f"class{label}" for label in drawn.labels] == list(map(class_of, drawn.names))
    ((images, labels),) = image_batches(drawn, 12)
    for image, label, name in zip(images, labels, drawn.names, strict=True):
        number = int(Path(name).stem)
        torch.testing.assert_close(image, torch.full((3, 4, 4), (EACH * label.item() + number) / 255))
    assert torch.equal(images, next(image_batches(packed, 12))[0])


def test_labels_of_a_table_or_an_array_are_the_classes(sorted_folder: Path, tmp_path: Path) -> None:
    """The table has two classes across the sub-folders, one of them rare."""
    rare = {"class0/0.png", "class0/1.png", "class7/4.png"}
    files = sorted(file.relative_to(sorted_folder).as_posix() for file in sorted_folder.rglob("*.png"))
    (sorted_folder / "labels.csv").write_text("file,label\n" + "".join(f"{f},{int(f in rare)}\n" for f in files))
    assert sum(draw_images(open_images(sorted_folder, TRANSFORM), 6).labels) == 3
    np.savez(tmp_path / "x.npz", x=np.arange(20.0), y=[0] * 18 + [1] * 2)
    assert sorted(draw_images(open_images(tmp_path / "x.npz", TRANSFORM), 4).labels) == [0, 0, 1, 1]


def test_a_draw_is_a_permutation_that_only_its_seed_changes() -> None:
    classes = [0] * 30 + [1] * 10
    everything = draw_samples(classes)
    assert sorted(everything) == list(range(40))
    assert draw_samples(classes, 99) == everything
    assert draw_samples(classes, 13) == everything[:13]
    assert draw_samples(classes, seed=1) != everything
    assert Counter(classes[i] for i in everything[:20]) == {0: 10, 1: 10}
    assert [classes[i] for i in everything[20:]] == [0] * 20
    plain = draw_samples([None] * 40)
    assert sorted(plain) == list(range(40)) != plain


def test_fewer_samples_than_classes_come_from_any_of_them() -> None:
    drawn = {index for seed in range(20) for index in draw_samples(range(100), 5, seed=seed)}
    assert len(drawn) > 50
    assert min(drawn) < 10
    assert max(drawn) > 89


def test_each_image_of_a_class_is_as_likely_as_another() -> None:
    drawn = Counter(index for seed in range(400) for index in draw_samples([0] * 6 + [1] * 2, 4, seed=seed))
    assert all(abs(drawn[index] / 400 - 2 / 6) < 0.12 for index in range(6))
    assert drawn[6] == drawn[7] == 400


@pytest.mark.parametrize(("options", "field"), [({"count": 0}, "count"), ({"count": 2.5}, "count"), ({"seed": -1}, "seed")])
def test_odd_counts_and_seeds_are_refused(options: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: got"):
        draw_samples([0, 1, 2], **options)
