"""The report as one standalone HTML page."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from qpass.report.advice import advice, recipe_text
from qpass.report.bits import bit_widths
from qpass.report.data import ReportData
from qpass.report.pictures import doubt, png_url
from qpass.report.plots import (
    bit_widths_by_depth,
    error_by_depth,
    errors_of_blocks,
    histograms,
    ranges_by_depth,
    ranks_by_depth,
)
from qpass.report.tiles import ENOUGH, WORDS, tiles
from qpass.version import __version__

#: Histograms shown: the tensors with the lowest SQNR.
SHOWN_HISTOGRAMS = 12


def render(report: ReportData) -> str:
    """Returns the page; it needs no other file and no network."""
    worst = sorted(report.tensors, key=lambda row: row.sqnr_db)[:SHOWN_HISTOGRAMS]
    advised, measured = advice(report)
    preview = report.preview
    plots = {
        "depth": error_by_depth(report) if report.layers else "",
        "bit_widths": bit_widths_by_depth(report) if any(len(row.errors) > 1 for row in report.allocation) else "",
        "ranges": ranges_by_depth(report) if any(row.kind == "activation" for row in report.tensors) else "",
        "ranks": ranks_by_depth(report) if any(row.ranks for row in report.reconstruction) else "",
        "learned": errors_of_blocks(report) if report.reconstruction else "",
        "histograms": histograms(worst) if worst else "",
    }
    return fill(
        "page.html",
        report=report,
        bits=bit_widths(report),
        plots=plots,
        tiles=tiles(report),
        words=WORDS,
        enough=ENOUGH,
        advised=advised,
        measured=measured,
        recipe_text=recipe_text(report, advised),
        pictures=[png_url(image) for image in preview.images] if preview else [],
        channels=list(zip(preview.lows, preview.highs, preview.means, preview.stds, strict=True)) if preview else [],
        doubt=doubt(preview) if preview else "",
    )


def fill(template: str, **values: Any) -> str:
    """Returns a page from a template of this package.

    A policy in the page allows its own script alone, and no network.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_source))
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return environment.get_template(template).render(
        version=__version__,
        style=Markup(_source("style.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        **values,
    )


def framed(report: ReportData) -> str:
    """Returns the page in a frame that keeps its style and script away from a notebook's."""
    frame = Markup('<iframe sandbox="allow-scripts" srcdoc="{}" style="width:100%;height:44rem;border:0"></iframe>')
    return str(frame.format(render(report)))


def _source(name: str) -> str:
    return files("qpass.report").joinpath(name).read_text(encoding="utf-8")
