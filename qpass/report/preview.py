"""Small pictures of calibration images as the network sees them: wrong preprocessing shows at once."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import flat_inputs, input_name
from qpass.report.data import InputPreview, Thumbnail

#: Pictures, and the longer side of each in pixels.
PICTURES, SIDE = 4, 64
#: An image has one of these numbers of channels, and at least this many rows and columns.
CHANNELS, LEAST_SIDE = (1, 3), 8


def input_preview(graph_module: fx.GraphModule, sample: ModelInputs) -> InputPreview | None:
    """Returns what the first image-like input looks like, or None if there is none.

    Args:
        graph_module: The graph.
        sample: Calibration inputs, after preprocessing.
    """
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    pairs = zip(placeholders, flat_inputs(graph_module, *sample), strict=True)
    found = next(((node, value) for node, value in pairs if _is_image(value)), None)
    if found is None:
        return None
    images = found[1].detach().float().cpu()
    low, high = images.min().item(), images.max().item()
    each = images.transpose(0, 1).flatten(1).double()
    return InputPreview(
        name=input_name(found[0]),
        shape=tuple(images.shape[1:]),
        lows=tuple(each.amin(1).tolist()),
        highs=tuple(each.amax(1).tolist()),
        means=tuple(each.mean(1).tolist()),
        stds=tuple(each.std(1, correction=0).tolist()),
        images=tuple(_thumbnail(image, low, high) for image in images[:PICTURES]),
    )


def without_pictures(preview: InputPreview | None) -> InputPreview | None:
    """Returns a preview with the values' ranges alone."""
    return None if preview is None else replace(preview, images=())


def _is_image(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.dim() != 4 or not value.is_floating_point() or not value.numel():
        return False
    return value.shape[1] in CHANNELS and min(value.shape[2:]) >= LEAST_SIDE and bool(value.isfinite().all())


def _thumbnail(image: Tensor, low: float, high: float) -> Thumbnail:
    """Returns one image with values from ``low`` to ``high`` as bytes, shrunk to at most ``SIDE`` pixels."""
    shrink = max(1.0, max(image.shape[1:]) / SIDE)
    height, width = (max(1, math.floor(side / shrink)) for side in image.shape[1:])
    small = torch.nn.functional.interpolate(image[None], size=(height, width), mode="area")[0]
    span = high - low if math.isfinite(high - low) and high > low else 1.0
    pixels = ((small - low) / span * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    rows = tuple(base64.b64encode(row.numpy().tobytes()).decode("ascii") for row in pixels.contiguous())
    return Thumbnail(width=width, height=height, channels=len(image), rows=rows)
