"""Quantizes as narrowly as a metric allows: candidates, their trials, and the test that decides."""

from qpass.accuracy.result import AccuracyResult, Trial
from qpass.runtime.public_names import only

__all__ = ["AccuracyResult", "Trial"]
__dir__ = only(__all__)
