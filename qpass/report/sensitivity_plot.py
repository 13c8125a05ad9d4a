"""The plot of a sensitivity report, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt

from qpass.passes.analysis.tensor_sensitivity import TensorSensitivity
from qpass.report.plots import COLOURS, STYLE, logarithmic, svg

#: Tensors shown, and characters of a name.
_SHOWN, _LONGEST = 40, 46
_ROLES = {"weight": COLOURS["weight"], "activation": COLOURS["activation"], "post_softmax": COLOURS["matmul"]}


def errors_of_tensors(ordered: Sequence[TensorSensitivity]) -> str:
    """Error of each of the first tensors, and what is left of it at the widest bit width tried."""
    rows = ordered[:_SHOWN]
    with plt.rc_context(STYLE):
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
        logarithmic(axes, "log", axis="x")
        axes.set(xlabel="output error of this tensor alone, share of the squared output")
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def _name(paths: str, bits: int) -> str:
    short = paths if len(paths) <= _LONGEST else paths[: _LONGEST - 3] + "..."
    return f"{short}, {bits} bits"
