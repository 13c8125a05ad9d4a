from __future__ import annotations

import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import qpass.data.decode as decode_module
import qpass.data.images as images_module
from qpass.data import ImageTransform, image_batches, open_images, regular_file
from qpass.data.decode import decode_image, image_bytes
from qpass.errors import ConfigError, DataError

TRANSFORM = ImageTransform(crop=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six grey images of values 0, 40, ... 200 in two classes."""
    for i in range(6):
        (tmp_path / "data" / ("cat" if i < 3 else "dog")).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "data" / ("cat" if i < 3 else "dog") / f"{i}.png"
        Image.new("RGB", (6, 8), (40 * i,) * 3).save(path)
    return tmp_path / "data"


def test_an_image_folder(folder: Path) -> None:
    source = open_images(folder, TRANSFORM)
    assert source.labels == [0, 0, 0, 1, 1, 1]
    batches = list(image_batches(source, 4))
    assert [images.shape for images, _ in batches] == [(4, 3, 4, 4), (2, 3, 4, 4)]
    torch.testing.assert_close(batches[0][0][2, 0, 0, 0].item(), (80 / 255 - 0.5) / 0.25)
    assert batches[1][1].tolist() == [1, 1]


def test_a_limit_spreads_over_the_source(folder: Path) -> None:
    ((images, labels),) = image_batches(open_images(folder, TRANSFORM), 8, limit=3)
    assert labels.tolist() == [0, 0, 1]
    assert len(images) == 3


def test_a_zip_with_labels_beside_or_inside(folder: Path, tmp_path: Path) -> None:
    table = "file,label\n" + "".join(f"{i}.png,{i * 10}\n" for i in range(6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.name)
        archive.writestr("labels.csv", table)
    assert open_images(tmp_path / "a.zip", TRANSFORM).labels == [0, 10, 20, 30, 40, 50]
    source = open_images(tmp_path / "a.zip", TRANSFORM)
    assert torch.equal(source.load(5), open_images(folder, TRANSFORM).load(5))


def test_arrays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(5))
    assert open_images(tmp_path / "x.npy", TRANSFORM).labels is None
    source = open_images(tmp_path / "x.npz", TRANSFORM)
    assert source.labels == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(source.load(3).numpy(), x[3])


def test_resize_then_crop(folder: Path) -> None:
    image = ImageTransform(crop=12, resize=12)(Image.new("L", (6, 8)))
    assert image.shape == (3, 12, 12)


def test_bad_sources_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "none", TRANSFORM)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"files of kind '\.tar' are not read"):
        open_images(tmp_path / "a.tar", TRANSFORM)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"bad\.zip: cannot be opened"):
        open_images(tmp_path / "bad.zip", TRANSFORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_images(tmp_path / "empty", TRANSFORM)
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"x\.npy: cannot be read"):
        open_images(tmp_path / "x.npy", TRANSFORM)
    (folder / "cat" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"1\.png: is not a readable image"):
        list(image_batches(open_images(folder, TRANSFORM), 6))


def test_an_array_never_runs_code(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy: cannot be read"):
        open_images(tmp_path / "x.npy", TRANSFORM)


def test_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\n0.png,1\n")
    with pytest.raises(DataError, match=r"labels\.csv: no label for cat/1\.png \(and 4 more\): cat/1\.png, cat/2\.png"):
        open_images(folder, TRANSFORM)
    (folder / "labels.csv").write_text("name;class\n0.png;1\n")
    with pytest.raises(DataError, match="expected the header file,label"):
        open_images(folder, TRANSFORM)


def test_labels_that_do_not_fit_do_not_matter_to_calibration(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\n0.png,1\n")
    for path in (folder, zip_tree(folder, folder.parent / "set.zip")):
        with pytest.warns(UserWarning, match=r"labels\.csv: no label for cat/1\.png .*; the images are used without labels"):
            source = open_images(path, TRANSFORM, needs_labels=False)
        assert source.labels is None
        assert len(source) == 6


def write_tree(folder: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index,) * 3).save(folder / name)


def zip_tree(folder: Path, path: Path, *, prefix: str = "", separator: str = "/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = prefix + file.relative_to(folder).as_posix()
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes())
            archive.infolist()[-1].filename = name.replace("/", separator)
    return path


@pytest.mark.parametrize("separator", ["/", "\\"])
@pytest.mark.parametrize("start", ["", "./"])
def test_a_path_is_the_key_of_a_label(tmp_path: Path, separator: str, start: str) -> None:
    """Two classes whose images have the same names, in a folder and in a zip, the table inside or beside."""
    names = ["a/1.png", "b/1.png", "b/c/1.png", "2.png"]
    write_tree(tmp_path / "set", names)
    table = "file,label\n" + "".join(f"{start}{name},{10 + index}\n" for index, name in enumerate(names))
    wanted = {"2.png": 13, "a/1.png": 10, "b/1.png": 11, "b/c/1.png": 12}
    for place in (tmp_path / "set" / "labels.csv", tmp_path / "labels.csv"):
        place.write_text(table.replace("/", separator), encoding="utf-8-sig")
        source = open_images(tmp_path / "set", TRANSFORM)
        assert source.labels == [wanted[name] for name in source.names]
        zipped = zip_tree(tmp_path / "set", tmp_path / "set.zip", separator=separator)
        source = open_images(zipped, TRANSFORM)
        assert source.labels == [wanted[name.replace("\\", "/")] for name in source.names]
        place.unlink()
    (tmp_path / "set" / "labels.csv").write_text(table)
    source = open_images(zip_tree(tmp_path / "set", tmp_path / "set.zip", prefix="val/"), TRANSFORM)
    assert source.labels == [wanted[name.removeprefix("val/")] for name in source.names]
    (tmp_path / "set" / "labels.csv").unlink()
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"set/{name},{10 + i}\n" for i, name in enumerate(names)))
    assert open_images(tmp_path / "set", TRANSFORM).labels == [13, 10, 11, 12]


def test_a_base_name_will_do_where_it_is_unique(tmp_path: Path) -> None:
    write_tree(tmp_path / "set", ["a/1.png", "b/1.png", "b/2.png"])
    (tmp_path / "set" / "labels.csv").write_text("file,label\na/1.png,5\nb/1.png,6\n2.png,7\n")
    assert open_images(tmp_path / "set", TRANSFORM).labels == [5, 6, 7]
    (tmp_path / "set" / "labels.csv").write_text("file,label\n1.png,5\n2.png,7\n")
    for source in (tmp_path / "set", zip_tree(tmp_path / "set", tmp_path / "set.zip")):
        with pytest.raises(DataError, match=r"labels\.csv: '1\.png' is the name of a/1\.png, b/1\.png; write their paths"):
            open_images(source, TRANSFORM)
    (tmp_path / "set" / "labels.csv").write_text("file,label\na/1.png,5\n2.png,7\n")
    with pytest.raises(DataError, match=r"no label for b/1\.png \(and 0 more\)"):
        open_images(tmp_path / "set", TRANSFORM)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,label\n0.png,1\n./0.png,2\n", "0.png has the labels 1 and 2"),
        (b"file,label\n0.png,-1\n", "bad row: 0.png has the label -1"),
        (b"file,label\n0.png,cat\n", "bad row"),
        (b"file,label\n0.png\n", "bad row"),
        (b"file,label\n\xff.png,1\n", "labels.csv: cannot be read"),
    ],
)
def test_odd_tables_are_refused(folder: Path, table: bytes, message: str) -> None:
    (folder / "labels.csv").write_bytes(table)
    with pytest.raises(DataError, match=message):
        open_images(folder, TRANSFORM)


def test_a_zip_with_two_tables_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "labels.csv").write_text("file,label\n")
    (folder / "dog" / "labels.csv").write_text("file,label\n")
    with pytest.raises(DataError, match=r"has cat/labels\.csv and dog/labels\.csv; expected one labels\.csv"):
        open_images(zip_tree(folder, tmp_path / "a.zip"), TRANSFORM)


@pytest.mark.parametrize(
    "y", [np.arange(4), np.arange(5) + 0.5, np.arange(5) - 1, np.zeros((5, 2), int), np.array(list("abcde"))]
)
def test_labels_of_arrays_are_whole_numbers_one_for_each_sample(tmp_path: Path, y: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 3), np.float32), y=y)
    with pytest.raises(DataError, match="expected a whole number from 0 for each of 5 samples"):
        open_images(tmp_path / "x.npz", TRANSFORM)
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 3), np.float32), y=np.arange(5.0))
    assert open_images(tmp_path / "x.npz", TRANSFORM).labels == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("x", [np.float32(1), np.array(["a"]), np.ones(2, complex)])
def test_arrays_are_numbers(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="expected numbers, the batch first"):
        open_images(tmp_path / "x.npy", TRANSFORM)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.5}, {"batch_size": 2, "limit": 0}])
def test_sizes_of_batches_are_counts(folder: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a whole number above 0"):
        next(image_batches(open_images(folder, TRANSFORM), **options))


def save_gray(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_as_eight_are(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 255, 64).round().reshape(8, 8)
    save_gray(tmp_path / "a.png", ramp.astype(np.uint8))
    save_gray(tmp_path / f"b{suffix}", (ramp * 257).astype(np.uint16))
    plain = ImageTransform(crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    ((eight, sixteen), _) = next(image_batches(open_images(tmp_path, plain), 2))
    assert torch.equal(eight, sixteen)
    assert eight.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(tmp_path: Path, dtype: Any) -> None:
    save_gray(tmp_path / "a.tif", np.linspace(0, 1000, 64).reshape(8, 8).astype(dtype))
    with pytest.raises(DataError, match=r"a\.tif: holds .* whose range is unknown"):
        next(image_batches(open_images(tmp_path, ImageTransform(crop=8)), 1))


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image, exif = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png", exif=exif)
    ((plain, turned), _) = next(image_batches(open_images(tmp_path, ImageTransform(crop=8)), 2))
    assert torch.equal(plain, turned)


def test_images_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    Image.new("L", (1, 20_000)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png: is 224 x 4480000 pixels"):
        next(image_batches(open_images(tmp_path, ImageTransform(resize=224)), 1))
    (tmp_path / "thin.png").unlink()
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png: is 13000 x 13000 pixels"):
        next(image_batches(open_images(tmp_path, ImageTransform()), 1))


@pytest.mark.parametrize("field", ["crop", "resize"])
def test_a_side_has_a_bound(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: got 1000000; expected 1 to 8192 pixels"):
        ImageTransform(**{field: 10**6})


def test_a_table_in_a_zip_unpacks_to_no_more_than_a_table_has(folder: Path, tmp_path: Path) -> None:
    path = zip_tree(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", b"file,label\n" + b"\n" * 2**27)
    with pytest.raises(DataError, match=r"labels\.csv: is too large unpacked; expected at most 67108864 bytes"):
        open_images(path, ImageTransform())


def test_a_size_that_a_zip_gives_wrongly_passes_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "LARGEST_IMAGE", 1000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100_000))
    content = path.read_bytes()
    assert content.count((100_000).to_bytes(4, "little")) == 2
    path.write_bytes(content.replace((100_000).to_bytes(4, "little"), (500).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"a\.zip/a\.png: (is too large unpacked|cannot be read: Bad CRC)"):
        next(image_batches(open_images(path, ImageTransform()), 1))


def test_names_that_are_twice_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("a.png", b"")
    with pytest.raises(DataError, match=r"has the entry a\.png twice"):
        open_images(tmp_path / "a.zip", ImageTransform())


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_is_called_an_image_and_is_no_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is not a file; expected an image"):
        open_images(tmp_path, ImageTransform())


def tiff(pixels: bytes, *, bits: int, photometric: int) -> bytes:
    """Returns a gray image of 4 x 2 pixels as a TIFF, which PIL itself does not write in these ways."""
    tags = [(256, 4), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 2), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("pixels", "bits", "photometric", "expected"),
    [
        (struct.pack("<8H", *[64 * 257] * 8), 16, 1, 64),
        (struct.pack("<8H", *[64 * 257] * 8), 16, 0, 191),
        (bytes([64] * 8), 8, 0, 191),
        (bytes([0x40, 0x04, 0x00] * 4), 12, 1, 64),
    ],
)
def test_gray_is_scaled_by_its_bits_and_by_what_is_white(pixels: bytes, bits: int, photometric: int, expected: int) -> None:
    image = decode_image(tiff(pixels, bits=bits, photometric=photometric), "L", "a.tif")
    assert np.asarray(image).tolist() == [[expected] * 4] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
        b"P5 2 2 255\n" + bytes(4),
        b"<svg/>",
        b"",
    ],
)
def test_content_of_other_kinds_starts_no_other_program(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    with pytest.raises(DataError, match=r"a\.png: is not a readable image; expected JPEG"):
        decode_image(content, "RGB", "a.png")
    assert started == []


def test_a_pipe_in_the_place_of_a_table_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv: is not a file"):
        open_images(folder, TRANSFORM)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("/dev/zero", "is not a file"), ("pipe.png", "is not a file"), ("missing.png", "does not exist"), ("", "is not a file")],
)
def test_what_annotations_name_is_read_within_bounds(folder: Path, name: str, problem: str) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match=problem):
        image_bytes(folder / name)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_table_may_end_its_lines_in_any_way(newline: str, folder: Path, tmp_path: Path) -> None:
    table = newline.join(["file,label", *(f"{i}.png,{i * 10}" for i in range(6)), ""]).encode()
    path = zip_tree(folder, tmp_path / "inside.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.csv", table)
    (folder / "labels.csv").write_bytes(table)
    for place in (folder, path):
        assert open_images(place, TRANSFORM).labels == [0, 10, 20, 30, 40, 50]


def test_files_have_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "labels.csv").write_bytes(b"file,label\n")
    monkeypatch.setattr(regular_file, "LARGEST_TABLE", 10)
    with pytest.raises(DataError, match=r"labels\.csv: has 11 bytes; expected a table in UTF-8 of at most 10 bytes"):
        open_images(folder, TRANSFORM)
    size = (folder / "cat" / "1.png").stat().st_size
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", size - 1)
    with pytest.raises(DataError, match=rf"1\.png: has {size} bytes; expected an image of at most {size - 1} bytes"):
        image_bytes(folder / "cat" / "1.png")
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", size)
    assert image_bytes(folder / "cat" / "1.png") == (folder / "cat" / "1.png").read_bytes()
