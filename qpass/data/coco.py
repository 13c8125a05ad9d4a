"""Images with boxes and masks in COCO's on-disk format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qpass.data.decode import decode_image, image_bytes
from qpass.errors import DataError
from qpass.runtime.extras import from_extra
from qpass.runtime.quiet import quiet_thread


class CocoImages(Sequence[tuple[Tensor, dict[str, Tensor]]]):
    """(image, target) pairs, ordered by image id.

    Images are (3, H, W) in 0..1. Targets have the format of torchvision's detectors: ``boxes`` (n, 4)
    as x1 y1 x2 y2, ``labels`` (n,), the file's category ids, ``masks`` (n, H, W) of 0 and 1, and
    ``iscrowd`` (n,).

    Args:
        folder: Folder of the images.
        annotations: File with boxes and masks, such as ``instances_val2017.json``; None uses
            ``instances.json`` in the folder.

    Raises:
        DataError: If either is missing or invalid, or pycocotools is not installed.
    """

    def __init__(self, folder: str | Path, annotations: str | Path | None = None) -> None:
        self._folder = Path(folder)
        path = self._folder / "instances.json" if annotations is None else Path(annotations)
        for wanted in (self._folder, path):
            if not wanted.exists():
                hint = "COCO is at https://cocodataset.org/#download: val2017.zip and annotations_trainval2017.zip"
                raise DataError("does not exist", where=str(wanted), expected="images, and their annotations", hint=hint)
        with from_extra("detection", "coco"):
            from pycocotools.coco import COCO
        try:
            with quiet_thread():  # COCO prints its loading time
                self._coco = COCO(str(path))
            self._numbers = sorted(self._coco.imgs)
        except Exception as error:  # JSON errors, missing keys, wrong types
            raise DataError(f"cannot be read: {error}", where=str(path), expected="instances in COCO's format") from error

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """Returns one image and its target."""
        number = self._numbers[index]
        path = self._folder / self._coco.imgs[number]["file_name"]
        pixels = np.asarray(decode_image(image_bytes(path), "RGB", str(path)))
        found = self._coco.imgToAnns[number]
        boxes = torch.tensor([thing["bbox"] for thing in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [self._coco.annToMask(thing) for thing in found]
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255, {
            "boxes": boxes,
            "labels": torch.tensor([thing["category_id"] for thing in found], dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks)) if masks else torch.zeros((0, *pixels.shape[:2]), dtype=torch.uint8),
            "iscrowd": torch.tensor([thing.get("iscrowd", 0) for thing in found], dtype=torch.int64),
        }
