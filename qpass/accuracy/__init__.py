"""Quantizes as narrowly as a metric allows: candidates, their trials, and the test that decides."""

from qpass.accuracy.result import AccuracyResult, Trial

__all__ = ["AccuracyResult", "Trial"]
