"""Calibration and evaluation data: what a loader may be, and images from folders, zips and arrays."""

from qpass.data.batches import Batch, ModelInputs, collect_batches
from qpass.data.images import ImageTransform, image_batches, open_images

__all__ = ["Batch", "ImageTransform", "ModelInputs", "collect_batches", "image_batches", "open_images"]
