"""Folders of transformers and timm: what is loaded, and what is said of what is not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers

from qpass.data import ImageTransform
from qpass.errors import DataError
from qpass.zoo.pretrained import class_names, companions_in, find_folder, replace_companions
from qpass.zoo.source_model import open_model
from tests.pretrained import write_classifier, write_detector

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(saved, tmp_path / "vit")


def change(path: Path, **changes: Any) -> None:
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_folder_gives_its_model_preprocessing_and_classes(saved: Path) -> None:
    source = open_model(str(saved))
    expected = transformers.AutoModelForImageClassification.from_pretrained(saved)
    assert torch.equal(source.network(X).logits, expected(X).logits)
    assert not source.network.training
    half, size = [0.5] * 3, (32, 32)
    shape = {"crop": size, "resize": size, "fit": "stretch", "crop_rounding": "down"}
    assert source.transform == ImageTransform(**shape, mean=half, std=half, interpolation="bilinear")
    assert source.class_names == ["cat", "dog", "bird"]
    assert source.folder == saved


def test_half_precision_becomes_float32(folder: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).half()
    model.save_pretrained(folder)
    assert {p.dtype for p in open_model(str(folder)).network.parameters()} == {torch.float32}


def test_a_folder_of_timm(tmp_path: Path) -> None:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 2}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"input_size": [3, 32, 32], "mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 0.9, "label_names": ["a", "b"]}
    content = {"architecture": "vit_tiny_patch16_224", "num_classes": 2, "model_args": options, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    source = open_model(str(tmp_path))
    assert torch.equal(source.network(X), model(X))
    assert source.transform == ImageTransform(crop=32, resize=35, mean=[0.1] * 3, std=[0.2] * 3)
    assert source.class_names == ["a", "b"]
    assert (source.folder, source.companions) == (tmp_path, ())


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": None}, r"config\.json: names no architectures"),
        ("config.json", {"architectures": ["ViTForNothing"]}, "has no model ViTForNothing"),
        ("config.json", {"architectures": ["AutoConfig"]}, "has no model AutoConfig"),
        ("config.json", {"architectures": ["Own"], "auto_map": {"AutoModel": "own.Own"}}, "their own code are not loaded"),
        ("config.json", {"architectures": ["BertModel"]}, "BertModel takes no images"),
        ("config.json", {"architectures": ["CLIPModel"]}, "CLIPModel takes input_ids beside images"),
        ("config.json", {"architectures": ["ViTForMaskedImageModeling"]}, r"the weights lack decoder\.0\.bias \(and 2 more\)"),
        ("config.json", {"hidden_size": 64}, r"cannot be loaded|have another shape"),
    ],
)
def test_models_that_cannot_be_loaded_are_named(file: str, changes: dict[str, Any], message: str, folder: Path) -> None:
    change(folder / file, **changes)
    with pytest.raises(DataError, match=message):
        open_model(str(folder))


def test_damaged_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vit: takes no arguments, got width"):
        open_model(str(folder), width=3)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"vit: cannot be loaded: .*; are all files complete\?"):
        open_model(str(folder))
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json: (cannot be read|is no JSON object)"):
            open_model(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: has no config\.json; expected a folder that save_pretrained"):
        open_model(str(tmp_path / "empty"))


def test_without_a_processor_the_preprocessing_is_unknown(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    source = open_model(str(folder))
    assert (source.transform, source.refusal) == (None, None)


def test_a_processor_that_is_no_transform_matters_for_images_only(tmp_path: Path) -> None:
    folder = write_detector(tmp_path)
    source = open_model(str(folder))
    assert source.transform is None
    assert "gives images of various sizes" in str(source.refusal)
    sized = open_model(str(folder), image_size=(32, 48))
    assert sized.transform is not None
    assert (sized.transform.crop, sized.refusal) == ((32, 48), None)


class TestHub:
    @pytest.fixture
    def cache(self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub cache that holds the classifier as someone/vit."""
        snapshot = tmp_path / "models--someone--vit" / "snapshots" / "0123abcd"
        shutil.copytree(saved, snapshot)
        (tmp_path / "models--someone--vit" / "refs").mkdir()
        (tmp_path / "models--someone--vit" / "refs" / "main").write_text("0123abcd")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    @pytest.mark.usefixtures("cache")
    def test_a_name_in_the_cache_is_its_folder(self) -> None:
        assert open_model("someone/vit").class_names == ["cat", "dog", "bird"]

    @pytest.mark.usefixtures("cache")
    def test_other_names_say_what_to_do_and_download_nothing(self) -> None:
        with pytest.raises(
            DataError, match=r"someone/swin: is neither a folder nor in the local cache .* 'hf download someone/swin'"
        ):
            open_model("someone/swin")

    def test_other_models_are_no_folders(self) -> None:
        assert [find_folder(name) for name in ("deit_tiny_patch16_224", "tests.models:small_vit")] == [None, None]


def test_the_extra_is_named_where_transformers_is_missing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        DataError, match=r"vit: needs transformers, which is not installed; pip install 'qpass\[transformers\]'"
    ):
        open_model(str(saved))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"1": "b", "0": "a"}, ["a", "b"]),
        ({"0": "LABEL_0", "1": "LABEL_1"}, []),
        ({"0": "a", "2": "b"}, []),
        ({"zero": "a"}, []),
        (None, []),
    ],
)
def test_class_names_are_those_of_the_config(labels: Any, names: list[str]) -> None:
    assert class_names({"id2label": labels}) == names


def test_companions_are_copied_but_not_onto_themselves(saved: Path, tmp_path: Path) -> None:
    files = companions_in(saved)
    assert replace_companions((), files, tmp_path) == ("config.json", "preprocessor_config.json")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "preprocessor_config.json"}
    assert (tmp_path / "config.json").read_bytes() == (saved / "config.json").read_bytes()
    assert replace_companions((), files, saved) == ()


def test_companions_of_an_earlier_run_do_not_stay(saved: Path, tmp_path: Path) -> None:
    files = companions_in(saved)
    (tmp_path / "tokenizer.json").write_text("of another model")
    (tmp_path / "vocab.txt").write_text("the user's own")
    (tmp_path / "notes.txt").write_text("the user's own")
    assert replace_companions(("tokenizer.json", "notes.txt", "../up"), files, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "preprocessor_config.json", "vocab.txt", "notes.txt"}
    assert replace_companions(("config.json", "preprocessor_config.json"), (), tmp_path) == ()
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.txt", "notes.txt"}
    replace_companions(("config.json",), files, saved)
    assert (saved / "config.json").is_file(), "a run into the model's own folder leaves it alone"
