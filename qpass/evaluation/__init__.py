"""Accuracy of classifiers, detectors and part segmenters."""
