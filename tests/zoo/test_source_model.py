"""What is known of a model's images and classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpass.errors import DataError
from qpass.zoo.source_model import open_model


def test_a_timm_model_knows_its_preprocessing_and_imagenets_classes() -> None:
    source = open_model("deit_tiny_patch16_224")
    assert source.transform is not None
    assert source.transform.resize == 248
    assert len(source.class_names) == 1000
    assert source.class_names[0] == "tench, Tinca tinca"


def test_another_number_of_classes_has_no_names() -> None:
    assert open_model("deit_tiny_patch16_224", num_classes=7).class_names == []


def test_an_own_model_knows_nothing() -> None:
    source = open_model("tests.models:small_vit")
    assert source.transform is None
    assert source.class_names == ()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nets/model.onnx", "qpass quantizes PyTorch models"),
        ("weights.pth", "weights go to --checkpoint"),
        ("images.zip", "calibration images go to --calib"),
    ],
)
def test_a_file_is_no_model(name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.zip").touch()
    with pytest.raises(DataError, match=f"^{name}: is a file; expected .*; .*{hint}"):
        open_model(name)
