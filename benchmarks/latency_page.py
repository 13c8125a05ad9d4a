"""The results of the latency benchmark: figures by model, and the page, table and picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pictures import picture, save
from provenance import commit

RESULTS = Path(__file__).parent / "results"
#: What qpass is asked to beat: everything else that runs in onnxruntime. OpenVINO is another
#: runtime, and shown beside it.
RIVALS = ("float", "ort quantize_static", "ort quantize_dynamic")
#: qpass's files of fewer bits, which should not be slower.
NARROWER = ("qpass codebook-w4a8", "qpass mixed-w4a5", "qpass mixed-w3a4")


class Page:
    """The results of one table: one file of figures, and what is written from it."""

    def __init__(self, name: str, baseline: str) -> None:
        self.path, self.baseline = RESULTS / f"{name}.json", baseline
        self.models: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def add(self, model: str, report: dict[str, Any], failed: dict[str, str], command: str) -> None:
        """Replaces one model's figures."""
        self.models[model] = {**report, "failed": failed, "command": command, "commit": commit()}
        self.write()

    def write(self) -> None:
        """Writes figures, page, table and picture."""
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.models, indent=1) + "\n", encoding="utf-8")
        self.path.with_suffix(".md").write_text("\n".join(self.lines()) + "\n", encoding="utf-8")
        with self.path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(
                stream, ["model", "name", "batch", "threads", "median_ms", "spread", "speedup", "cpu_speedup", "peak_share"]
            )
            table.writeheader()
            table.writerows({"model": model, **row} for model, found in self.models.items() for row in found["rows"])
        plot(self.models, self.path.with_suffix(".svg"))

    def lines(self) -> Iterator[str]:
        """Yields the lines of the page."""
        yield "# Latency"
        yield ""
        yield f"Speed-up over {self.baseline}, everything of a cell timed in alternation: medians, and the interquartile range over the median."
        yield "'In CPU time' is the same ratio of user and system time of the process, all threads: other load on the machine changes it less."
        yield "'Of peak' is integer operations a second over what one large uint8 times int8 product does on the same machine. Random"
        yield "weights: speed only."
        yield f"\n![Speed-ups]({self.path.stem}.svg)"
        for model, found in self.models.items():
            measured = f" at {found['commit']}" if "commit" in found else ", before commits were kept,"
            yield f"\n## {model}\n\nWritten by `{found['command']}`{measured} on {found['machine']}.\n"
            yield from speed_table(found["rows"])
            yield "\n| file | MB | of float | loads in, over float | memory, over float | integer arithmetic | products |"
            yield "|---|---|---|---|---|---|---|"
            yield from file_rows(found)
            for label, reason in found["failed"].items():
                yield f"\n{label} does not run: {reason}"
        if self.baseline == "float onnxruntime":
            yield "\n## Where qpass loses\n"
            yield from losses(self.models) or ["Nowhere in onnxruntime."]


def first_setting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of the batch and threads that were timed first."""
    return [row for row in rows if all(row[key] == rows[0][key] for key in ("batch", "threads"))]


def speed_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields one line for each file, and one column for each setting."""
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    yield (
        "| | "
        + " | ".join(
            f"batch {batch}, {threads} thread{'s' * (threads > 1)} | in CPU time | spread | of peak"
            for batch, threads in settings
        )
        + " |"
    )
    yield "|---" * (1 + 4 * len(settings)) + "|"
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [next(r for r in rows if r["name"] == name and (r["batch"], r["threads"]) == setting) for setting in settings]
        shares = [f"{cell['peak_share']:.0%}" if cell["peak_share"] else "" for cell in cells]
        in_cpu_time = [f"{cell['cpu_speedup']:.2f}" if "cpu_speedup" in cell else "" for cell in cells]
        columns = [
            f"{cell['speedup']:.2f} | {cpu} | {cell['spread']:.0%} | {share}"
            for cell, cpu, share in zip(cells, in_cpu_time, shares, strict=True)
        ]
        yield f"| {name} | " + " | ".join(columns) + " |"


def file_rows(found: dict[str, Any]) -> Iterator[str]:
    """Yields size, time to load, memory, and what fused, of each file of onnxruntime's."""
    footprints = found["footprints"]
    base = next(iter(footprints.values()))
    for name, cost in footprints.items():
        ratios = " | ".join(f"{cost[key] / base[key]:.2f}" for key in ("load_ms", "peak_mb"))
        fusion = found["fusion"].get(name)
        share = f"{fusion['integer_arithmetic']:.1%}" if fusion else ""
        counts = {**fusion["integer"], **fusion["float"]} if fusion else {}
        products = ", ".join(f"{count} {operator}" for operator, count in counts.items())
        unfused = f"; {len(fusion['unfused'])} pairs unfused" if fusion and fusion["unfused"] else ""
        yield f"| {name} | {cost['size_mb']:.2f} | {cost['size_mb'] / base['size_mb']:.1%} | {ratios} | {share} | {products}{unfused} |"


def losses(models: dict[str, Any]) -> list[str]:
    """Returns a line for every cell in which another file beats w8a8, or a narrower recipe is slower."""
    found = []
    for model, figures in models.items():
        cells = {(row["name"], row["batch"], row["threads"]): row["speedup"] for row in figures["rows"]}
        for (name, batch, threads), speedup in cells.items():
            ours = cells["qpass w8a8", batch, threads]
            where = f"- {model}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
            if name in RIVALS and speedup > ours:
                found.append(f"{where}: {name} {speedup:.2f}, qpass w8a8 {ours:.2f}")
            if name in NARROWER and speedup < 0.95 * ours:
                found.append(f"{where}: {name} {speedup:.2f} is more than 5 % slower than qpass w8a8 {ours:.2f}")
    return found


def plot(models: dict[str, Any], path: Path) -> None:
    """Draws the speed-ups at the first setting of each model."""
    figure, axes = picture(len(models), 1, figsize=(8, 0.6 + 2.9 * len(models)), squeeze=False)
    for axis, (model, found) in zip(axes[:, 0], models.items(), strict=True):
        rows = first_setting(found["rows"])[::-1]
        colours = ["#2563eb" if row["name"].startswith("qpass") else "#94a3b8" for row in rows]
        bars = axis.barh([row["name"] for row in rows], [row["speedup"] for row in rows], color=colours)
        axis.bar_label(bars, [f"{row['speedup']:.2f}" for row in rows], padding=3, fontsize=7)
        axis.axvline(1, color="#334155", linewidth=0.8)
        axis.set_title(f"{model}, batch {rows[0]['batch']}, {rows[0]['threads']} thread", fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.1)
    axes[-1, 0].set_xlabel(f"times the speed of {found['baseline']}", fontsize=8)
    save(figure, path)
