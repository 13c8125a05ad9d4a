"""Coloured shapes on cluttered backgrounds in COCO's format, drawn from a seed: no downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

SIZE = 96
CLASSES = ("disc", "square", "triangle", "star", "ring")
_CORNERS = {"disc": 40, "square": 4, "triangle": 3, "star": 10, "ring": 40}
#: A shape that others hide is labelled as long as so many pixels, and this share of it, are seen.
_LEAST_PIXELS, _LEAST_SHARE = 40, 0.4


def draw(seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns an image (SIZE, SIZE, 3) uint8 and its objects: class index, visible mask (SIZE, SIZE) bool."""
    rng = np.random.default_rng(seed)
    image = _background(rng)
    whole: list[tuple[int, np.ndarray]] = []
    for _ in range(rng.integers(1, 6)):
        kind = int(rng.integers(len(CLASSES)))
        mask = _mask(rng, CLASSES[kind])
        texture = rng.normal(0, rng.uniform(0, 25), (SIZE, SIZE, 1))
        image = np.where(mask[..., None], rng.uniform(0, 255, 3) + texture, image)
        whole.append((kind, mask))
    objects = []
    for index, (kind, mask) in enumerate(whole):
        seen = mask & ~np.any([later for _, later in whole[index + 1 :]] or [np.zeros_like(mask)], 0)
        if seen.sum() >= max(_LEAST_PIXELS, _LEAST_SHARE * mask.sum()):
            objects.append({"class": kind, "mask": seen})
    noisy = image + rng.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), objects


def _background(rng: np.random.Generator) -> np.ndarray:
    """Returns a colour gradient crossed by lines and spots of any colour."""
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    gradient = rng.uniform(0, 255, 3) * ramp + rng.uniform(0, 255, 3) * (1 - ramp)
    picture = Image.fromarray(np.broadcast_to(gradient, (SIZE, SIZE, 3)).astype(np.uint8).copy())
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(4, 14)):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y, u, v = (int(value) for value in rng.integers(0, SIZE, 4))
        if rng.random() < 0.6:
            pen.line((x, y, u, v), colour, int(rng.integers(1, 4)))
        else:
            pen.ellipse((x, y, x + 6, y + 6), colour)
    return np.asarray(picture, dtype=np.float64)


def _mask(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Returns the pixels of a shape of random size, place and turn."""
    radius, turn = rng.uniform(8, 24), rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(radius * 0.6, SIZE - radius * 0.6, 2)
    corners = _CORNERS[kind]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    radii = np.full(corners, radius)
    if kind == "star":
        radii[1::2] *= 0.45
    outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas = Image.new("1", (SIZE, SIZE))
    pen = ImageDraw.Draw(canvas)
    pen.polygon([tuple(point) for point in outline], fill=1)
    if kind == "ring":
        inner = centre + 0.55 * (outline - centre)
        pen.polygon([tuple(point) for point in inner], fill=0)
    return np.asarray(canvas)


def write_coco(folder: Path, count: int, seed: int) -> Path:
    """Writes ``count`` images, from ``seed`` on, and ``instances.json`` like COCO; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        pixels, objects = draw(seed + index)
        name = f"{index:06d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
        for thing in objects:
            code = coco_mask.encode(np.asfortranarray(thing["mask"], dtype=np.uint8))
            annotations.append({
                "id": len(annotations) + 1, "image_id": index, "category_id": thing["class"] + 1, "iscrowd": 0,
                "bbox": [float(value) for value in coco_mask.toBbox(code)], "area": float(coco_mask.area(code)),
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode()},
            })  # fmt: skip
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
