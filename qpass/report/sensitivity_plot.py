"""The plot of a sensitivity report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

from qpass.passes.analysis.tensor_sensitivity import TensorSensitivity

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "font.size": 9,
    "text.parse_math": False,  # a $ in a path is literal
    "svg.fonttype": "none",
    "svg.hashsalt": "qpass",
}

#: Tensors shown, and characters of a name.
_SHOWN, _LONGEST = 40, 46
#: Colour of each role, also for the colour-blind (Okabe and Ito).
_ROLES = {"weight": "#CC79A7", "activation": "#0072B2", "post_softmax": "#D55E00"}


def errors_of_tensors(ordered: Sequence[TensorSensitivity]) -> str:
    """Error of each of the first tensors, and what is left of it at the widest bit width tried."""
    rows = ordered[:_SHOWN]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 1.2 + 0.2 * len(rows)), layout="constrained")
        for role, colour in _ROLES.items():
            places = [place for place, row in enumerate(rows) if row.role == role]
            if places:
                axes.barh(places, [rows[place].error for place in places], color=colour, label=role.replace("_", " "))
        wider = [(row.errors[row.widest], place) for place, row in enumerate(rows) if row.widest != row.bits]
        if wider:
            axes.scatter(*zip(*wider, strict=True), s=14, color="#111111", zorder=3, label="at the most bits tried")
        axes.set_yticks(range(len(rows)), [_name(", ".join(row.paths) or "(model)", row.bits) for row in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        # Plain numbers: matplotlib's own labels are mathematical text.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="output error of this tensor alone, share of the squared output")
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
        return _svg(figure)


def _name(paths: str, bits: int) -> str:
    short = paths if len(paths) <= _LONGEST else paths[: _LONGEST - 3] + "..."
    return f"{short}, {bits} bits"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
