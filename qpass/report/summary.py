"""The figures of a report that a program wants, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from qpass.report.data import ReportData
from qpass.report.tiles import file_sizes


def summary(report: ReportData) -> dict[str, Any]:
    """Returns accuracy kept, size, speed and verification; null for what is unknown."""
    sizes = file_sizes(report)
    return {
        "model": report.model,
        "recipe": report.recipe,
        "agreement": None if report.agreement is None else asdict(report.agreement),
        "output_sqnr_db": report.output_sqnr_db if math.isfinite(report.output_sqnr_db) else None,
        "bytes": None if sizes is None else sizes[1],
        "float_bytes": None if sizes is None else sizes[0],
        "speed": [asdict(speed) for speed in report.speed],
        "verified": None if report.verified is None else asdict(report.verified),
    }
