"""Copies the figures of benchmarks/results/ into the README, between its markers.

Run: python benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path

from accuracy_pages import Measured
from table_text import stale_note

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


#: What a user chooses between, and when: at most ten rows, the others are a click away.
CHOICES = {
    "w8a8": "CPU: the accuracy of float",
    "codebook-w4a8": "CPU: a sixth of the size",
    "codebook-w3a8": "CPU: the smallest file with 8-bit activations",
    "w4a8": "weights in equal steps",
    "mixed-w4a5": "NPU with 4-bit products: 4 bits, or 8 where it matters",
    "codebook-w4a4": "4 bits everywhere, any 16 levels",
    "w4a4": "4 bits everywhere, equal steps",
    "w3a3": "research",
    "repq-vit-w4a4": "published method, for comparison",
    "dopq-vit-w4a4": "published method that learns, for comparison",
}
#: The networks of the table: classes, text and pixels.
SHOWN = ("deit-tiny", "plates", "ngswin")


def accuracy() -> list[str]:
    """Returns the rows that a user chooses between, and the size of DeiT-T's file."""
    networks = [Measured(name) for name in SHOWN]
    deit = networks[0]
    assert deit.base is not None
    titles = " | ".join(f"{one.network.title}, {one.network.unit}" for one in networks)
    lines = [f"| recipe | take it for | {titles} | file of float |", "|---" * (len(networks) + 3) + "|"]
    for recipe, purpose in CHOICES.items():
        if recipe in deit.rows:
            size = f"{100 * deit.rows[recipe][0].file_mb / deit.base.file_mb:.1f} %"
            cells = " | ".join(one.cell(recipe) for one in networks)
            lines.append(f"| {deit.shown(recipe)} | {purpose} | {cells} | {size} |")
    reasons = {f"{one.name} {r}": one.stale[r] for one in networks for r in CHOICES if r in one.stale}
    return lines + stale_note(reasons)


def models() -> list[str]:
    """Returns the count of the sweep."""
    (sweep,) = json.loads((RESULTS / "models.json").read_text(encoding="utf-8"))
    found = sweep["rows"]
    return [
        f"{sum(row['verified'] for row in found)} of {len(found)} models of timm, transformers and torchvision were traced, "
        "quantized, exported and verified."
    ]


def main() -> None:
    """Rewrite the README's figures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, make in (("accuracy", accuracy), ("models", models)):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(start)
        lines = make()
        inside = lines[0] if len(lines) == 1 else "\n".join(["", "", *lines, "", ""])
        text = before + start + inside + end + rest.split(end)[1]
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
