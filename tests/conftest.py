"""Small seeded models and what is made of them once for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from tests.models import SMALL_VIT_CLASSES, SMALL_VIT_IMAGES, small_vit

pytest_plugins = ["tests.slow_cases"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keeps tests and the commands that they start to one thread: there is a process for each core."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def vit() -> nn.Module:
    return small_vit()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def quantized(vit: nn.Module, images: Tensor) -> fx.GraphModule:
    """The small ViT at w8a8; not to be changed."""
    return qpass.quantize_graph(vit, [images], "w8a8", progress=False)


@pytest.fixture(scope="session")
def exported(quantized: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small ViT's file, which says how its images are preprocessed."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return qpass.export_onnx(quantized, path, preprocessing=SMALL_VIT_IMAGES, class_names=SMALL_VIT_CLASSES)


@pytest.fixture(scope="session")
def quantized_4bit(vit: nn.Module, images: Tensor) -> fx.GraphModule:
    """The small ViT as repq-vit-w4a4: 4-bit weights with zero points, logarithmic Softmax; not to be changed."""
    return qpass.quantize_graph(vit, [images], "repq-vit-w4a4", progress=False)


@pytest.fixture(scope="session")
def exported_4bit(quantized_4bit: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qpass.export_onnx(quantized_4bit, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def quantized_codebook(vit: nn.Module, images: Tensor) -> fx.GraphModule:
    """The small ViT with 3-bit weights and activations in free levels; not to be changed."""
    return qpass.quantize_graph(vit, [images], "codebook-w3a3", progress=False)


@pytest.fixture(scope="session")
def exported_codebook(quantized_codebook: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qpass.export_onnx(quantized_codebook, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; what needs it is skipped without it."""
    folder = Path(os.environ.get("QPASS_ASSETS", "../shared/assets"))
    if not (folder / "deit_tiny_in1k").is_dir():
        pytest.skip(f"no assets in {folder}: set QPASS_ASSETS")
    return folder
