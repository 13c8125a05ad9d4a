"""The report as one standalone HTML page."""

from __future__ import annotations

from importlib.resources import files

import jinja2
from markupsafe import Markup

from qpass.report.bits import bit_widths
from qpass.report.data import ReportData
from qpass.report.plots import (
    bit_widths_by_depth,
    error_by_depth,
    errors_of_blocks,
    histograms,
    ranges_by_depth,
    ranks_by_depth,
)
from qpass.version import __version__

#: Histograms shown: the tensors with the lowest SQNR.
SHOWN_HISTOGRAMS = 12


def render(report: ReportData) -> str:
    """Returns the page; it needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("qpass.report").joinpath("page.html").read_text(encoding="utf-8"))
    worst = sorted(report.tensors, key=lambda row: row.sqnr_db)[:SHOWN_HISTOGRAMS]
    plots = {
        "depth": error_by_depth(report) if report.layers else "",
        "bit_widths": bit_widths_by_depth(report) if any(len(row.errors) > 1 for row in report.allocation) else "",
        "ranges": ranges_by_depth(report) if any(row.kind == "activation" for row in report.tensors) else "",
        "ranks": ranks_by_depth(report) if any(row.ranks for row in report.reconstruction) else "",
        "learned": errors_of_blocks(report) if report.reconstruction else "",
        "histograms": histograms(worst) if worst else "",
    }
    shown = {name: Markup(plot) for name, plot in plots.items()}
    return template.render(report=report, bits=bit_widths(report), version=__version__, plots=shown)
