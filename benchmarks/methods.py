"""The published methods beside each other: share of float accuracy kept, ours and the papers'.

Run: python benchmarks/methods.py (accuracy.py does it too)
Writes: benchmarks/results/methods.md and .svg.
"""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from pictures import picture, save

#: The last three are ours: in closed form with one width everywhere and with 8 bits where they
#: matter most, and polished.
METHODS = {
    "naive": "min-max",
    "repq-vit": "RepQ-ViT",
    "ias-vit": "I&S-ViT",
    "dopq-vit": "DopQ-ViT",
    "aiqvit": "AIQViT",
    "narrow": "qpass, Y bits everywhere",
    "": "qpass wXaY",
    "polish": "qpass wXaY, polish quick",
}
WIDTHS = ("w3a3", "w4a4", "w4a8", "w6a6", "w8a8")
#: Top-1 of DeiT-T on all of ImageNet in the papers, and of their float network: arXiv 2212.08254,
#: 2311.10126, 2408.03291 and 2502.04628.
PAPERS = {
    "repq-vit": {"w4a4": 57.43},
    "ias-vit": {"w3a3": 41.52, "w4a4": 65.21},
    "dopq-vit": {"w3a3": 44.71, "w4a4": 65.54},
    "aiqvit": {"w3a3": 38.51, "w4a4": 62.33},
}
PAPERS_FLOAT = 72.21
#: Points of kept accuracy below which two rows are not told apart: a standard error.
APART = 1.5


def kept(rows: list[dict[str, str]], method: str, width: str) -> list[float]:
    """Returns the share of float accuracy kept through onnxruntime, percent, one for each seed."""
    names = {"": width, "narrow": f"{width}, {width[-1]} bits everywhere", "polish": f"{width}, polish quick"}
    return [float(row["kept"]) for row in rows if row["config"] == names.get(method, f"{method}-{width}")]


def lines(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yields the page."""
    yield "# Methods on equal terms"
    yield ""
    yield "DeiT-T, share of float accuracy kept through onnxruntime, in percent: the rows of [accuracy.md](accuracy.md), which has images,"
    yield "steps, seconds and errors (one standard error is 1 to 2 points). In brackets what the papers report for DeiT-T on all of ImageNet."
    yield "Methods that learn do so for the `quick` schedule; where several seeds ran, mean and range. qpass's rows learn nothing but the last;"
    yield "`wXaY` has activations of Y bits, or 8 where that matters most, in the mean Y + 1 over all multiply-adds."
    yield ""
    yield "![Accuracy kept](methods.svg)"
    yield ""
    yield f"| method | {' | '.join(width.upper() for width in WIDTHS)} |"
    yield "|---" * (1 + len(WIDTHS)) + "|"
    for method, title in METHODS.items():
        cells = []
        for width in WIDTHS:
            found, paper = kept(rows, method, width), PAPERS.get(method, {}).get(width)
            cell = f"{statistics.mean(found):.1f}" if found else ""
            cell += f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            cells.append(cell + (f" [{100 * paper / PAPERS_FLOAT:.1f}]" if paper else ""))
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield from (sentence for width in WIDTHS if (sentence := order(rows, width)))


def order(rows: list[dict[str, str]], width: str) -> str:
    """Returns how the methods with a published figure, if two or more, are ordered here and there."""
    ours = {m: statistics.mean(kept(rows, m, width)) for m in PAPERS if width in PAPERS[m] and kept(rows, m, width)}
    if len(ours) < 2:
        return ""
    ranked = sorted(ours, key=lambda method: -ours[method])
    text = METHODS[ranked[0]]
    for first, second in itertools.pairwise(ranked):
        text += f" {'>' if ours[first] - ours[second] > APART else '≈'} {METHODS[second]}"
    swapped = [
        f"{METHODS[b]} before {METHODS[a]}"
        for a, b in itertools.combinations(ranked, 2)
        if ours[a] - ours[b] > APART and PAPERS[a][width] < PAPERS[b][width]
    ]
    verdict = f"in the papers {', '.join(swapped)}" if swapped else "the papers do not contradict"
    return f"Order at {width.upper()}: {text}; {verdict}.  "


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Draws the table: a group of bars for each width, the papers' figures as marks."""
    figure, axes = picture(figsize=(8, 3.5))
    colours = ["#94a3b8", "#eab308", "#16a34a", "#db2777", "#2563eb", "#99f6e4", "#14b8a6", "#134e4a"]
    step, bar = 0.84 / len(METHODS), 0.78 / len(METHODS)
    for index, (method, title) in enumerate(METHODS.items()):
        axes.bar(0, 0, color=colours[index], label=title)  # for the legend, whatever has been run
        for place, width in enumerate(WIDTHS):
            found, paper = kept(rows, method, width), PAPERS.get(method, {}).get(width)
            x = place + step * (index - (len(METHODS) - 1) / 2)
            if found:
                axes.bar(x, statistics.mean(found), bar, color=colours[index])
            if paper:
                axes.plot([x - bar / 2, x + bar / 2], [100 * paper / PAPERS_FLOAT] * 2, color="black", lw=1.2)
    axes.set_xticks(range(len(WIDTHS)), [width.upper() for width in WIDTHS])
    axes.set(ylabel="float accuracy kept, %", ylim=(0, 104), title="DeiT-T through onnxruntime; black: the papers' own figures")
    axes.title.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save(figure, path)


def write(results: Path) -> None:
    """Writes page and picture from ``accuracy.csv``."""
    with (results / "accuracy.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (results / "methods.md").write_text("\n".join(lines(rows)) + "\n", encoding="utf-8")
    plot(rows, results / "methods.svg")


if __name__ == "__main__":
    write(Path(__file__).parent / "results")
