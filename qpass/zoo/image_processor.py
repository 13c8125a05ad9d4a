"""The preprocessing of a transformers image processor, as a transform of qpass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from qpass.data import ImageTransform
from qpass.errors import DataError

#: Largest and mean difference from the processor's own output, in levels of 8 bits. Its resampling
#: filters, torchvision's, round otherwise than pillow's.
_MOST, _MEAN = 12.0, 1.0
#: Sizes of the images on which a transform is compared with its processor.
_TRIED = ((397, 301), (283, 510))


def processor_transform(processor: Any, where: str, image_size: tuple[int, int] | None = None) -> ImageTransform:
    """Returns the transform that gives what an image processor gives, except for the rounding of filters.

    Args:
        processor: Image processor of transformers.
        where: Its location in messages.
        image_size: (height, width) to which images are resized instead, without keeping their aspect
            ratio; None keeps the processor's sizes.

    Raises:
        DataError: If the processor gives images of various sizes and ``image_size`` is None, or does
            more than resizing, cropping, rescaling and normalizing.
    """
    given = {name: value for name, value in vars(processor).items() if not name.startswith("_")}
    changes: dict[str, Any] = {}
    if image_size is not None:
        size = {"height": image_size[0], "width": image_size[1]}
        changes = {"do_resize": True, "size": size, "do_center_crop": False, "do_pad": False}
    colors = _colors(given)
    for shape in _shapes(given | changes):
        transform = ImageTransform(**colors, **shape, crop_rounding="down")
        if all(_agrees(transform, processor, size, changes) for size in _TRIED):
            return transform
    if image_size is None and len({_output(processor, _picture(*size), changes).shape for size in _TRIED}) > 1:
        raise DataError(
            "gives images of various sizes",
            where=where,
            expected="one size: the file is exported for it",
            hint="give --image-size, such as --image-size 640x640: images are resized to it",
        )
    raise DataError(
        f"{type(processor).__name__} does more than resize, crop, rescale and normalize",
        where=where,
        hint="calibrate with an .npz of the processor's own pixel_values",
    )


def _colors(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a transform that concern values: it divides pixels by 255."""
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale") else 1.0
    offset = 1.0 if given.get("do_rescale") and given.get("rescale_offset") else 0.0
    normalizes = bool(given.get("do_normalize"))
    mean = _three(given.get("image_mean") if normalizes else 0.0)
    std = _three(given.get("image_std") if normalizes else 1.0)
    if normalizes and given.get("include_top"):  # EfficientNet divides by std twice
        std = [value**2 for value in std]
    unit = factor * 255
    if unit != 1 or offset:
        mean, std = [(value + offset) / unit for value in mean], [value / unit for value in std]
    return {
        "mean": mean,
        "std": std,
        "channel_order": "bgr" if given.get("do_flip_channel_order") else "rgb",
        "interpolation": Image.Resampling(given["resample"]).name.lower() if given.get("resample") is not None else "bilinear",
    }


def _three(value: Any) -> list[float]:
    """Returns a value for each channel, of a list or a number."""
    values = list(value) if np.ndim(value) else [value]
    return [float(each) for each in (values * 3 if len(values) == 1 else values)]


def _shapes(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields sizes and crops that the settings may mean; some processors treat them in ways of their own."""
    size = _sizes(given.get("size")) if given.get("do_resize") else {}
    crop = _sizes(given.get("crop_size")) if given.get("do_center_crop") else {}
    crops = [(crop["height"], crop["width"])] if "height" in crop else []
    if "height" in size:
        exact = (size["height"], size["width"])
        yield {"resize": exact, "fit": "stretch", "crop": crops[0] if crops else exact}
    if "shortest_edge" in size:
        edge = size["shortest_edge"]
        crop_to = crops[0] if crops else (edge, edge)
        scales = (1.0, given.get("crop_pct") or 1.0, 224 / 256)  # LeViT's is 224 / 256, whatever its settings
        yield from ({"resize": int(edge / scale), "crop": crop_to} for scale in scales)
        yield {"resize": (edge, edge), "fit": "stretch", "crop": crop_to}  # ConvNeXT from 384 on
    if not size and crops:
        yield {"resize": None, "crop": crops[0]}


def _sizes(size: Any) -> dict[str, int]:
    """Returns the parts of a size that are given."""
    items = size.items() if isinstance(size, Mapping) else vars(size).items() if size is not None else ()
    return {name: value for name, value in items if value is not None}


def _agrees(transform: ImageTransform, processor: Any, size: tuple[int, int], changes: Mapping[str, Any]) -> bool:
    image = _picture(*size)
    found, expected = transform(image).numpy(), _output(processor, image, changes)
    if found.shape != expected.shape:
        return False
    levels = np.abs(found - expected) * np.reshape(transform.std, (-1, 1, 1)) * 255
    return bool(levels.max() <= _MOST and levels.mean() <= _MEAN)


def _output(processor: Any, image: Image.Image, changes: Mapping[str, Any]) -> np.ndarray:
    found: np.ndarray = processor(images=image, return_tensors="pt", **changes)["pixel_values"][0].numpy()
    return found


def _picture(width: int, height: int) -> Image.Image:
    """Returns a smooth picture without symmetries: any other crop, scale or order of channels changes it."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(7 * x + 2 * y), np.cos(3 * x - 8 * y + 1), np.sin(5 * x * y + 2)]
    return Image.fromarray(np.stack([127.5 + 100 * wave for wave in waves], axis=-1).astype(np.uint8))
