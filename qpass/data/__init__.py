"""Calibration and evaluation data: loader batches, and images from folders, zips and arrays."""

from qpass.data.batches import Batch, ModelInputs, checked_batches
from qpass.data.coco import CocoImages
from qpass.data.draw import draw_images, draw_samples
from qpass.data.image_loader import ImageLoader
from qpass.data.image_transform import ImageTransform
from qpass.data.images import image_batches, open_images
from qpass.data.kept_batches import KeptBatches
from qpass.data.point_clouds import PointClouds, open_modelnet40, open_shapenet_part
from qpass.runtime.public_names import only

__all__ = [
    "Batch",
    "CocoImages",
    "ImageLoader",
    "ImageTransform",
    "KeptBatches",
    "ModelInputs",
    "PointClouds",
    "checked_batches",
    "draw_images",
    "draw_samples",
    "image_batches",
    "open_images",
    "open_modelnet40",
    "open_shapenet_part",
]
__dir__ = only(__all__)
