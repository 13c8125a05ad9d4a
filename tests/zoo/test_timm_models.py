"""Models by name: what is found, and what is said of what is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn

from qpass.data import ImageTransform
from qpass.errors import DataError
from qpass.zoo.timm_models import class_names, create_model, default_transform, knows_its_preprocessing, load_checkpoint

FACTORY = """
import torch
from torch import nn

def make(width=3):
    return nn.Linear(width, 2).train()

class Group:
    made = nn.Linear(2, 2)

def text():
    return "no model"

def fails(**options):
    raise RuntimeError("out of luck")

number = 5
"""


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own, in the current folder."""
    (tmp_path / "own_models.py").write_text(FACTORY)
    (tmp_path / "broken_models.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)


@pytest.mark.usefixtures("_module")
class TestFactories:
    def test_a_factory_or_a_model_of_a_module(self) -> None:
        model = create_model("own_models:make", width=5)
        assert isinstance(model, nn.Linear)
        assert (model.in_features, model.training) == (5, False)
        assert isinstance(create_model("own_models:Group.made"), nn.Linear)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_models:none", "own_models:none: cannot be imported: AttributeError"),
            ("not_there:make", "cannot be imported: ModuleNotFoundError"),
            ("broken_models:make", "cannot be imported: SystemExit: 3"),
            ("own_models:number", "own_models:number: is a int; expected a callable"),
            ("own_models:text", r"own_models:text\(\): gave a str|own_models:text: gave a str"),
            ("own_models:fails", "failed: RuntimeError: out of luck"),
        ],
    )
    def test_others_are_refused_by_name(self, name: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            create_model(name)


def test_a_name_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"timm: no model is called 'deit_tiny_patch16_225'.*did you mean 'deit_tiny_patch16_224"
    ):
        create_model("deit_tiny_patch16_225")


class TestCheckpoints:
    def test_all_of_a_file_is_loaded(self, tmp_path: Path) -> None:
        source, model = nn.Linear(3, 2), nn.Linear(3, 2)
        safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
        torch.save(source.state_dict(), tmp_path / "w.pth")
        for name in ("w.safetensors", "w.pth"):
            with torch.no_grad():
                model.weight.zero_()
            load_checkpoint(model, tmp_path / name)
            assert torch.equal(model.weight, source.weight)

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"weight": torch.ones(2, 3)}, r"lacks bias \(and 0 more\); expected the weights of Linear"),
            ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}, "has the unknown more"),
            ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, r"has another shape for weight \(2, 4\)"),
            ({"weight": 3}, "holds no mapping of names to tensors"),
        ],
    )
    def test_weights_that_do_not_fit_are_refused_and_none_is_loaded(self, state: object, message: str, tmp_path: Path) -> None:
        model = nn.Linear(3, 2)
        before = model.weight.detach().clone()
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(DataError, match=message):
            load_checkpoint(model, tmp_path / "w.pth")
        assert torch.equal(model.weight, before)

    def test_files_that_are_missing_or_damaged_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none\.pth: no such file; expected a checkpoint"):
            load_checkpoint(nn.Linear(3, 2), tmp_path / "none.pth")
        (tmp_path / "w.pth").write_bytes(b"damaged")
        with pytest.raises(DataError, match=r"w\.pth: cannot be read"):
            load_checkpoint(nn.Linear(3, 2), tmp_path / "w.pth")


class WithConfig(nn.Module):
    """Says how its images are preprocessed, as timm's models do."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.pretrained_cfg = config


#: Every crop mode, interpolation and form of size among timm's configs.
CONFIGS: list[dict[str, Any]] = [
    {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"},
    {"input_size": (3, 224, 224), "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center"},
    {"input_size": (3, 384, 384), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
    {"input_size": (3, 448, 448), "crop_pct": 0.965, "interpolation": "bicubic", "crop_mode": "squash"},
    {"input_size": (3, 160, 160), "crop_pct": 0.9, "crop_mode": "border", "mean": (0.3, 0.5, 0.7), "std": (0.1, 0.2, 0.3)},
    {"input_size": (3, 224, 224), "crop_pct": 1.0, "crop_mode": "border"},
    {"input_size": (3, 96, 192), "crop_pct": 0.9, "interpolation": "bilinear"},
    {"input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "nearest"},
    {"input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "lanczos"},
    {"input_size": (3, 256, 256)},
]


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)


class TestPreprocessing:
    @pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
    def test_it_equals_timms_to_the_bit(self, config: dict[str, Any]) -> None:
        model = WithConfig(**config)
        expected = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        transform = default_transform(model)
        for width, height in ((500, 375), (375, 500), (227, 227), (333, 250), (61, 40), (1021, 97)):
            image = picture(width, height)
            assert torch.equal(transform(image), expected(image)), (width, height)

    def test_deit_resizes_to_248(self) -> None:
        transform = default_transform(timm.create_model("deit_tiny_patch16_224"))
        assert (transform.resize, transform.crop, transform.interpolation) == (248, 224, "bicubic")

    def test_it_is_imagenets_where_the_model_says_nothing(self) -> None:
        assert default_transform(nn.Identity()) == ImageTransform()
        assert not knows_its_preprocessing(nn.Identity())
        assert knows_its_preprocessing(WithConfig(**CONFIGS[0]))

    @pytest.mark.slow
    def test_it_equals_timms_for_every_data_config_that_timm_knows(self) -> None:
        configs = {}
        for name in timm.list_pretrained():
            config = timm.get_pretrained_cfg(name).to_dict()
            if config["input_size"][0] == 3:
                configs[repr(timm.data.resolve_data_config(pretrained_cfg=config))] = config
        assert len(configs) > 50
        for config in configs.values():
            model = WithConfig(**config)
            image = picture(211, 148)
            expected = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image)
            assert torch.equal(default_transform(model)(image), expected), config


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_classes": 2, "label_names": ["a", "b"]}, ["a", "b"]),
        ({"num_classes": 2, "label_names": ["a", "b"], "label_descriptions": {"a": "first"}}, ["first", "b"]),
        ({"num_classes": 2, "label_names": ["a"]}, []),
        ({"num_classes": 2}, []),
        ({}, []),
    ],
)
def test_class_names_are_those_of_the_config(config: dict[str, Any], expected: list[str]) -> None:
    model = WithConfig(**config)
    model.num_classes = 2
    assert class_names(model) == expected
