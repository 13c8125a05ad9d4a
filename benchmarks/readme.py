"""Copies the figures of benchmarks/results/ into the README, between its markers.

Run: python benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path

from accuracy_pages import Measured
from latency_page import first_setting
from networks import NETWORKS
from table_text import stale_note

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


#: What a user chooses between: at most ten rows, the others are a click away.
CHOICES = (
    "w8a8", "codebook-w4a8", "codebook-w3a8", "w4a8", "mixed-w4a5", "codebook-w4a4", "w4a4", "w3a3", "repq-vit-w4a4", "dopq-vit-w4a4",
)  # fmt: skip


def accuracy() -> list[str]:
    """Returns the rows that a user chooses between, and the size of DeiT-T's file."""
    networks = [Measured(name) for name in NETWORKS]
    deit = networks[0]
    assert deit.base is not None
    lines = [
        f"| recipe | {' | '.join(f'{one.network.title}, {one.network.unit}' for one in networks)} | file of float |",
        "|---" * (len(networks) + 2) + "|",
    ]
    for recipe in CHOICES:
        if recipe in deit.rows:
            size = f"{100 * deit.rows[recipe][0].file_mb / deit.base.file_mb:.1f} %"
            lines.append(f"| {deit.shown(recipe)} | {' | '.join(one.cell(recipe) for one in networks)} | {size} |")
    reasons = {f"{one.name} {r}": one.stale[r] for one in networks for r in CHOICES if r in one.stale}
    return lines + stale_note(reasons)


def latency() -> list[str]:
    """Returns the speed-ups, one row a network or file, one column a model, at the first setting of each."""
    models = json.loads((RESULTS / "latency.json").read_text(encoding="utf-8"))
    cells: dict[str, dict[str, float]] = {}
    for model, found in models.items():
        for row in first_setting(found["rows"]):
            cells.setdefault(row["name"], {})[model] = row["speedup"]
    lines = [f"| | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for name, speedups in cells.items():
        lines.append(f"| {name} | " + " | ".join(f"{speedups[m]:.2f}" if m in speedups else "" for m in models) + " |")
    return lines


def models() -> list[str]:
    """Returns the count of the sweep."""
    (sweep,) = json.loads((RESULTS / "models.json").read_text(encoding="utf-8"))
    found = sweep["rows"]
    return [
        f"{sum(row['verified'] for row in found)} of {len(found)} models of timm, transformers and torchvision traced, quantized, exported and verified."
    ]


def main() -> None:
    """Rewrite the README's figures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, make in (("accuracy", accuracy), ("latency", latency), ("models", models)):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(start)
        text = before + "\n".join([start, "", *make(), "", end]) + rest.split(end)[1]
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
