"""Classifiers with their real weights. A sample calibrates or evaluates, never both."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from assets import assets
from safetensors.torch import load_file
from task import Network, Predict, Task
from torch import Tensor, nn

from qpass.data import ImageTransform, image_batches, open_images
from qpass.data.image_source import ImageSource
from qpass.evaluation.top1 import evaluate_top1
from qpass.zoo.timm_models import create_model

_CROP = ImageTransform(crop=224, resize=None)


def training_source() -> ImageSource:
    """Opens the 1,000 training images of ImageNet, one a class, centre crop 224."""
    return open_images(assets() / "imagenet_1000_256" / "images.zip", _CROP)


def training_images(batch: int) -> Iterator[Tensor]:
    """Yields these images in batches, each read when it is asked for."""
    return (images for images, _ in image_batches(training_source(), batch))


def validation_images() -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields 650 validation images of ImageNet and their labels, centre crop 224, in batches."""
    return image_batches(open_images(assets() / "imagenet_val650_227" / "images.zip", _CROP), 50)


def top1_of(batches: Callable[[], Iterable[tuple[Tensor, Tensor | None]]]) -> Callable[[Predict], list[float]]:
    """Returns what scores a classifier: 100 for each sample that it gets right."""
    return lambda predict: (100.0 * evaluate_top1(predict, batches()).correct).tolist()


def deit_tiny_model() -> nn.Module:
    """DeiT-T of ImageNet."""
    return create_model("deit_tiny_patch16_224", assets() / "deit_tiny_in1k" / "model.safetensors")


def deit_tiny() -> Task:
    """DeiT-T of ImageNet: 1,000 training images, one a class, and 650 validation images."""
    return Task(
        model=deit_tiny_model(),
        pool=training_source(),
        counts=(128, 1000),
        batch=16,
        score=top1_of(validation_images),
    )


DEIT_TINY = Network(
    title="DeiT-T",
    score="top-1",
    unit="%",
    description="DeiT-T (ImageNet-1k, 5.7 M parameters), calibrated on training images and evaluated on 650 validation images. These are\n"
    "easier than the whole validation set: float has 80.3 % there and 72.2 % on all of it (DeiT's authors).",
    modules=("accuracy_tasks.py", "task.py"),
    load=deit_tiny,
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
    return Task(
        model=model.eval(),
        pool=in_memory("mnist_test", digits, labels, range(_CALIBRATION_DIGITS)),
        counts=(128, 1000),
        batch=32,
        score=top1_of(
            lambda: zip(digits[_CALIBRATION_DIGITS:].split(250), labels[_CALIBRATION_DIGITS:].split(250), strict=True)
        ),
    )


MNIST = Network(
    title="MNIST",
    score="top-1",
    unit="%",
    description=f"A ViT for MNIST (patch 7, width 64, depth 6, 0.2 M parameters), calibrated on some of the first {_CALIBRATION_DIGITS} of 10,000 test\n"
    "digits and evaluated on the others.",
    modules=("accuracy_tasks.py", "task.py"),
    load=mnist,
)


def in_memory(name: str, samples: Tensor, labels: Tensor, chosen: Sequence[int]) -> ImageSource:
    """Returns some of the samples of an array, by their places."""
    whole = ImageSource(name, [f"{name}[{i}]" for i in range(len(samples))], labels.tolist(), lambda i: samples[i])
    return whole.take(chosen)


def _idx(path: object, header: int) -> np.ndarray:
    with gzip.open(str(path)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


class MnistViT(nn.Module):
    """The checkpoint's layout: pre-norm, attention scaled by the whole width, no last LayerNorm."""

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
