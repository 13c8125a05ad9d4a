"""NGswin doubles the size of images: shifted windows with masks, cosine attention, post-norm."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch
from assets import assets
from PIL import Image
from task import Network, Predict, Task, asset_module, zipped_images
from torch import Tensor, nn

#: Pixels of a tile, those at its border that a neighbouring tile gives, and tiles in a batch.
TILE, _MARGIN, _BATCH = 64, 8, 4
_SCALE = 2
_CALIBRATION = 8


def ngswin_model() -> nn.Module:
    """NGswin x2."""
    return asset_module("ngswin_x2").load(str(assets() / "ngswin_x2"))


def ngswin() -> Task:
    """NGswin on Set5, tile by tile, calibrated on crops of training images of half their size."""
    pairs = set5()

    def score(predict: Predict) -> list[float]:
        return [psnr(luma(high), luma(in_tiles(predict, low))) for low, high in pairs]

    return Task(
        model=ngswin_model(),
        pool=zipped_images(assets() / "imagenet_1000_256" / "images.zip", crop_of_half),
        counts=(_CALIBRATION, _CALIBRATION),
        batch=4,
        score=score,
        scored_in_torch=False,
        verified=1,
    )


NGSWIN = Network(
    title="NGswin x2",
    score="PSNR of Y",
    unit="dB",
    description=f"NGswin x2 (super-resolution, 1.0 M parameters; shifted windows, cosine attention), calibrated on crops of {TILE} x {TILE} pixels of training images\n"
    f"of half their size, and evaluated on the 5 images of Set5 in tiles of {TILE} x {TILE}: PSNR of Y without {_SCALE} pixels at each border.",
    modules=("super_resolution.py", "task.py"),
    load=ngswin,
)


def crop_of_half(image: Image.Image) -> Tensor:
    """Returns the centre of an image of half its size."""
    width, height = (side // _SCALE for side in image.size)
    left, top = (width - TILE) // 2, (height - TILE) // 2
    return _tensor(image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + TILE, top + TILE)))


def set5() -> list[tuple[Tensor, Tensor]]:
    """Returns each image of half its size, and the image."""
    with zipfile.ZipFile(assets() / "set5" / "set5.zip") as archive:
        names = [name.removeprefix("HR/").removesuffix(".png") for name in archive.namelist() if name.startswith("HR/")]
        read = lambda name: _tensor(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))  # noqa: E731
        return [(read(f"LR_bicubic/X2/{name}x2.png"), read(f"HR/{name}.png")) for name in sorted(names)]


def in_tiles(predict: Predict, image: Tensor) -> Tensor:
    """Returns an image of twice the size, computed in tiles that overlap; the border is mirrored."""
    step = TILE - 2 * _MARGIN
    height, width = image.shape[1:]
    below, right = (-side % step + _MARGIN for side in (height, width))
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (_MARGIN, below), (_MARGIN, right)), mode="symmetric"))
    places = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]
    tiles = torch.stack([padded[:, y : y + TILE, x : x + TILE] for y, x in places])
    with torch.no_grad():
        found = torch.cat([predict(part) for part in tiles.split(_BATCH)])
    result = image.new_zeros(3, *(_SCALE * (side + -side % step) for side in (height, width)))
    inner = slice(_SCALE * _MARGIN, _SCALE * (TILE - _MARGIN))
    for (y, x), tile in zip(places, found, strict=True):
        result[:, _SCALE * y : _SCALE * (y + step), _SCALE * x : _SCALE * (x + step)] = tile[:, inner, inner]
    return result[:, : _SCALE * height, : _SCALE * width]


def luma(image: Tensor) -> Tensor:
    """Returns Y of an image of whole values, in 0 to 255, without the pixels at the border."""
    values = (255 * image.double()).round().clamp(0, 255) / 255
    y = 16 + (torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)[:, None, None] * values).sum(0)
    return y[_SCALE:-_SCALE, _SCALE:-_SCALE]


def psnr(wanted: Tensor, found: Tensor) -> float:
    """Returns the peak signal over the noise, for values in 0 to 255."""
    height, width = (min(sides) for sides in zip(wanted.shape, found.shape, strict=True))
    error = (wanted[:height, :width] - found[:height, :width]).square().mean()
    return (10 * torch.log10(255**2 / error)).item()


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
