"""Observers record statistics of a tensor while calibration batches run."""

from qpass.observers.histogram import HistogramObserver
from qpass.observers.product import ProductObserver
from qpass.runtime.public_names import only

__all__ = ["HistogramObserver", "ProductObserver"]
__dir__ = only(__all__)
