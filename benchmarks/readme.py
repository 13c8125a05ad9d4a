"""Copies the figures of benchmarks/results/ into the README, between its markers.

Run: python benchmarks/readme.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from latency_page import first_setting

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def rows(name: str) -> list[dict[str, str]]:
    """Returns the rows of a results file."""
    with (RESULTS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def accuracy() -> list[str]:
    """Returns the accuracy table, its main columns, without the rows that leave a part of a recipe out."""
    lines = ["| recipe | below float, points | float accuracy kept | file of float | verified |", "|---|---|---|---|---|"]
    for r in rows("accuracy.csv"):
        drop, error, kept, share = (float(r[key]) for key in ("drop", "drop_error", "kept", "file_share"))
        verified = "yes" if r["verified"] == "True" else "no"
        seed = f", seed {r['seed']}" if r["seed"] != "0" else ""
        lines.append(f"| {r['config']}{seed} | {drop:.1f} ± {error:.1f} | {kept:.1f} % | {share:.1f} % | {verified} |")
    return lines


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
