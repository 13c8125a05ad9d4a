"""Observers record statistics of a tensor while calibration batches run."""

from qpass.observers.histogram import HistogramObserver
from qpass.observers.product import ProductObserver

__all__ = ["HistogramObserver", "ProductObserver"]
