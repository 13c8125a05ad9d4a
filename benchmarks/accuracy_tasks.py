"""What accuracy is measured on: a network with real weights; images to calibrate or to evaluate."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from assets import assets
from safetensors.torch import load_file
from torch import Tensor, nn

from qpass.data import ImageTransform, image_batches, open_images
from qpass.zoo.timm_models import create_model


@dataclass(frozen=True)
class Task:
    """A float network, calibration images, the size of a batch, and labelled images to evaluate on."""

    description: str
    model: nn.Module
    images: Tensor
    batch: int
    evaluation: list[tuple[Tensor, Tensor | None]]

    def calibration(self, count: int) -> list[Tensor]:
        """Returns the first batches, ``count`` images."""
        return list(self.images[:count].split(self.batch))


_CROP = ImageTransform(crop=224, resize=None)


def training_images(batch: int) -> Iterator[Tensor]:
    """Yields 1,000 training images of ImageNet, one a class, centre crop 224, read batch by batch."""
    source = open_images(assets() / "imagenet_1000_256" / "images.zip", _CROP)
    return (images for images, _ in image_batches(source, batch))


def deit_tiny_model() -> nn.Module:
    """DeiT-T of ImageNet."""
    return create_model("deit_tiny_patch16_224", assets() / "deit_tiny_in1k" / "model.safetensors")


def deit_tiny() -> Task:
    """DeiT-T of ImageNet: 1,000 training images, one a class, and 650 validation images; centre crop 224."""
    validation = open_images(assets() / "imagenet_val650_227" / "images.zip", _CROP)
    return Task(
        "DeiT-T (ImageNet-1k), calibrated on training images, evaluated on 650 validation images that are\n"
        "easier than the whole set: read the drop from float on the same images, with its paired standard error.",
        deit_tiny_model(),
        torch.cat(list(training_images(16))),
        16,
        list(image_batches(validation, 50)),
    )


#: Of the 10,000 test digits the first calibrate (no training digit is at hand); others evaluate.
_CALIBRATION_DIGITS = 1024


def mnist() -> Task:
    """A ViT of 0.2 M parameters on the MNIST test digits."""
    folder = assets() / "mnist_test"
    pixels = _idx(folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(_idx(folder / "t10k-labels-idx1-ubyte.gz", 8).astype(np.int64))
    digits = (torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.1307) / 0.3081
    model = MnistViT()
    model.load_state_dict(load_file(assets() / "vit_mnist_d6" / "model.safetensors"))
    evaluation = zip(digits[_CALIBRATION_DIGITS:].split(250), labels[_CALIBRATION_DIGITS:].split(250), strict=True)
    return Task(
        f"A ViT for MNIST (patch 7, width 64, depth 6), calibrated on the first {_CALIBRATION_DIGITS} test digits and evaluated on the\n"
        f"other {len(digits) - _CALIBRATION_DIGITS}; drops come with their paired standard error.",
        model.eval(),
        digits[:_CALIBRATION_DIGITS],
        32,
        [(images, found) for images, found in evaluation],
    )


#: Every fifth object calibrates (no training object is at hand), and the others evaluate.
_EVERY_FIFTH = 5


def modelnet40() -> Task:
    """The Point Transformer of ModelNet40 on its airplanes and bathtubs."""
    data = np.load(assets() / "modelnet40_air_bath_test" / "test150_1024x6.npz")
    objects, labels = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    evaluated = torch.arange(len(objects)) % _EVERY_FIFTH != 0
    evaluation = zip(objects[evaluated].split(20), labels[evaluated].split(20), strict=True)
    return Task(
        f"Point Transformer (ModelNet40, two of 40 classes), calibrated on {len(objects) - int(evaluated.sum())} test objects and evaluated on\n"
        f"the other {int(evaluated.sum())}; drops come with their paired standard error.",
        create_model(
            "qpass.zoo.point_transformer:PointTransformer", assets() / "point_transformer_modelnet40" / "model.safetensors"
        ),
        objects[~evaluated],
        10,
        [(clouds, found) for clouds, found in evaluation],
    )


def _idx(path: object, header: int) -> np.ndarray:
    with gzip.open(str(path)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


class MnistViT(nn.Module):
    """The checkpoint's layout: pre-norm blocks, attention scaled by the width, no last LayerNorm."""

    def __init__(self, width: int = 64, depth: int = 6, patch: int = 7) -> None:
        super().__init__()
        self.patch = patch
        self.pos_embedding = nn.Parameter(torch.zeros(1, 17, width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_to_embedding = nn.Linear(patch * patch, width)
        self.transformer = nn.Module()
        layers = [nn.ModuleList([_residual(width, _Attention(width)), _residual(width, _Mlp(width))]) for _ in range(depth)]
        self.transformer.layers = nn.ModuleList(layers)
        self.mlp_head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 10))

    def forward(self, images: Tensor) -> Tensor:
        size = 28 // self.patch
        patches = (
            images.reshape(-1, size, self.patch, size, self.patch)
            .permute(0, 1, 3, 2, 4)
            .reshape(-1, size * size, self.patch**2)
        )
        x = (
            torch.cat([self.cls_token.expand(images.shape[0], -1, -1), self.patch_to_embedding(patches)], 1)
            + self.pos_embedding
        )
        for attention, mlp in self.transformer.layers:  # type: ignore[union-attr,misc]
            x = mlp(attention(x))
        return self.mlp_head(x[:, 0])  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)  # type: ignore[no-any-return]


class _PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))  # type: ignore[no-any-return]


def _residual(width: int, fn: nn.Module) -> nn.Module:
    return _Residual(_PreNorm(width, fn))


class _Attention(nn.Module):
    heads = 8

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.to_qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return self.to_out((attention @ v).transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


TASKS: dict[str, Callable[[], Task]] = {"deit-tiny": deit_tiny, "mnist": mnist, "modelnet40": modelnet40}
