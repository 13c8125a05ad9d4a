"""How pictures of results are drawn: as SVG with text as text, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt


def picture(*args: Any, **options: Any) -> tuple[Any, Any]:
    """Returns figure and axes, as ``plt.subplots`` takes them."""
    matplotlib.use("svg")
    plt.rcParams.update({"svg.hashsalt": "qpass", "svg.fonttype": "none"})
    return plt.subplots(*args, layout="constrained", **options)


def save(figure: Any, path: Path, *, transparent: bool = False) -> None:
    """Writes a figure without the date and closes it."""
    figure.savefig(path, metadata={"Date": None}, transparent=transparent)
    plt.close(figure)
