"""Observers: what is recorded of a tensor while calibration batches pass."""

from qpass.observers.histogram import HistogramObserver
from qpass.observers.product import ProductObserver

__all__ = ["HistogramObserver", "ProductObserver"]
