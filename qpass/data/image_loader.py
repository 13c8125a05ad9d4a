"""Calibration batches from images: of a path, a dataset, or any iterable of PIL images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from qpass.config.fields import at_least_one, optional
from qpass.data.decode import decode_image, eight_bits
from qpass.data.draw import draw_images
from qpass.data.image_source import ImageSource
from qpass.data.image_transform import ImageTransform
from qpass.data.images import image_batches, open_images
from qpass.data.saved_dataset import dataset_images, is_dataset
from qpass.errors import ConfigError, DataError

#: Turns a PIL image into the network's input, without the batch dim.
Preprocess = Callable[[Image.Image], Tensor]
PIXELS = "pixel_values"


@dataclass(frozen=True)
class Decoder:
    """Decodes image files for a function of PIL images.

    Attributes:
        preprocess: The function.
    """

    preprocess: Preprocess

    def decode(self, data: bytes, where: str) -> Tensor:
        """Returns the tensor of an image file; see ``ImageTransform.decode``."""
        return _as_tensor(self.preprocess(decode_image(data, "RGB", where)), where)


@dataclass(frozen=True)
class ImageLoader:
    """Batches of preprocessed images; may be iterated again.

    Attributes:
        source: The images.
        batch_size: Images in a batch.
        input_name: Name of the input that they are; None yields tensors, a name mappings.
    """

    source: ImageSource
    batch_size: int
    input_name: str | None = None

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | dict[str, Tensor]]:
        for batch, _ in image_batches(self.source, self.batch_size):
            yield batch if self.input_name is None else {self.input_name: batch}


def load_images(source: Any, preprocess: Any, *, count: int | None, batch_size: int, seed: int) -> ImageLoader:
    """Returns batches of images; see ``qpass.images``."""
    optional(at_least_one)(count, "count")
    at_least_one(batch_size, "batch_size")
    function, name = _function(preprocess)
    decoder = function if isinstance(function, ImageTransform) else Decoder(function)
    if isinstance(source, str | Path):
        opened = open_images(source, decoder, needs_labels=False)
    elif is_dataset(source):
        opened = dataset_images(source, decoder, type(source).__name__)
    elif isinstance(source, Sequence) or (_is_indexed(source) and not isinstance(source, Mapping)):
        opened = _of_items(source, len(source), function)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        tensors = [_tensor(item, index, function) for index, item in enumerate(islice(source, count))]
        opened = ImageSource("images", [f"[{index}]" for index in range(len(tensors))], None, tensors.__getitem__)
    else:
        raise DataError(f"got a {type(source).__name__}", where="images", expected="a path, a dataset, or PIL images")
    if not len(opened):
        raise DataError("no images", where="images", expected="at least one")
    return ImageLoader(draw_images(opened, count, seed=seed), batch_size, name)


def _function(preprocess: Any) -> tuple[Preprocess, str | None]:
    """Returns the function of a PIL image, and the input that a processor of transformers names."""
    processor = getattr(preprocess, "image_processor", preprocess)
    if hasattr(processor, "model_input_names") and callable(processor):
        return lambda image: processor(images=image.convert("RGB"), return_tensors="pt")[PIXELS][0], PIXELS
    if callable(preprocess):
        return preprocess, None
    raise ConfigError(
        f"got a {type(preprocess).__name__}",
        where="images, preprocessing",
        expected="an ImageTransform, a timm model, an image processor, or a function of a PIL image",
    )


def _is_indexed(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _of_items(items: Any, length: int, function: Preprocess) -> ImageSource:
    names = [f"[{index}]" for index in range(length)]
    return ImageSource("images", names, None, lambda index: _tensor(items[index], index, function))


def _tensor(item: Any, index: int, function: Preprocess) -> Tensor:
    """Returns the tensor of a PIL image, or of the first one in a pair or mapping."""
    values = list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, tuple | list) else [item]
    image, where = next((value for value in values if isinstance(value, Image.Image)), None), f"images[{index}]"
    if image is None:
        raise DataError(f"is a {type(item).__name__} without a PIL image", where=where, expected="PIL images")
    return _as_tensor(function(eight_bits(image, where)), where)


def _as_tensor(tensor: Any, where: str) -> Tensor:
    """Returns what preprocessing gave; floats are float32."""
    if not isinstance(tensor, Tensor):
        raise DataError(f"preprocessing gave a {type(tensor).__name__}", where=where, expected="a tensor")
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
