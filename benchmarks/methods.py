"""The published methods beside each other, on DeiT-T: measured here, and in their papers.

Written by accuracy.py: benchmarks/results/methods.md and .svg.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from paired import Estimate
from pictures import picture, save
from table_text import NOT_COMPARABLE, STALE, WHAT_ERRORS_ARE, difference, stale_note

from qpass.runtime.atomic_write import write_whole

if TYPE_CHECKING:
    from accuracy_pages import Measured

#: The last are ours: one width everywhere, 8 bits where they matter most, and both polished.
METHODS = {
    "naive-{}": "min-max",
    "repq-vit-{}": "RepQ-ViT",
    "ias-vit-{}": "I&S-ViT",
    "dopq-vit-{}": "DopQ-ViT",
    "aiqvit-{}": "AIQViT",
    "aiqvit-lsq-{}": "AIQViT with learned scales",
    "{}": "qpass",
    "{}, polish quick": "qpass, polished",
    "mixed": "qpass, mixed bits",
    "mixed, polish quick": "qpass, mixed bits, polished",
}
WIDTHS = ("w3a3", "w4a4", "w4a8", "w6a6", "w8a8")
#: The recipe with 8 bits where they matter most that takes the place of a width.
MIXED = {"w3a3": "mixed-w3a4", "w4a4": "mixed-w4a5"}
#: Top-1 of DeiT-T on all of ImageNet in the papers: RepQ-ViT (arXiv 2212.08254, and the README of
#: github.com/zkkli/RepQ-ViT), I&S-ViT (2311.10126, Table 1), DopQ-ViT (2408.03291), AIQViT
#: (2502.04628). What is not here is not published, or in no source at hand.
PAPERS = {
    "repq-vit-{}": {"w3a3": 0.97, "w4a4": 57.43, "w6a6": 70.76},
    "ias-vit-{}": {"w3a3": 41.52, "w4a4": 65.21, "w6a6": 70.85},
    "dopq-vit-{}": {"w3a3": 44.71, "w4a4": 65.54, "w6a6": 71.17},
    "aiqvit-{}": {"w3a3": 38.51, "w4a4": 62.33, "w6a6": 70.78},
}
#: Those that are not taken from the method's own paper or repository.
SECOND_HAND = {
    ("repq-vit-{}", "w3a3"): "run by I&S-ViT's authors",
    ("dopq-vit-{}", "w6a6"): "as others quote it",
}
PAPERS_FLOAT = 72.21


def recipe_of(method: str, width: str) -> str:
    """Returns the recipe of a method at a width; empty if it has none."""
    if method.startswith("mixed"):
        return MIXED.get(width, "") and MIXED[width] + method.removeprefix("mixed")
    return method.format(width)


def write(results: Path, measured: Measured) -> None:
    """Writes page and picture."""
    write_whole(results / "methods.md", "\n".join(lines(measured)).rstrip() + "\n")
    plot(measured, results / "methods.svg")


def lines(measured: Measured) -> Iterator[str]:
    """Yields the page."""
    yield "# Methods on equal terms"
    yield ""
    yield "DeiT-T through onnxruntime: the rows of [its page](accuracy_deit_tiny.md), which has images, seeds, seconds, commits and machines."
    yield "Methods that learn do so for the schedule that the row names. `mixed` has activations of Y or 8 bits, Y + 1 in the mean; all other"
    yield "rows have one width throughout."
    yield ""
    yield WHAT_ERRORS_ARE
    yield NOT_COMPARABLE
    yield f"Published: top-1 on all of ImageNet, of a float network with {PAPERS_FLOAT} %, and how far below it;"
    yield "`no source` is not published, or in no source at hand."
    yield ""
    yield "![Points below float](methods.svg)"
    stale = {}
    for width in WIDTHS:
        yield ""
        yield f"## {width.upper()}"
        yield ""
        yield "| method | recipe | points below float | published top-1 | published, below float |"
        yield "|---|---|---|---|---|"
        for method, title in METHODS.items():
            recipe = recipe_of(method, width)
            if not recipe or (recipe not in measured.rows and width not in PAPERS.get(method, {})):
                continue
            if recipe in measured.stale:
                stale[recipe] = measured.stale[recipe]
            yield f"| {title} | {measured.shown(recipe)} | {measured.cell(recipe)} | {' | '.join(published(method, width))} |"
        yield from order(measured, width)
    yield from stale_note(stale)


def published(method: str, width: str) -> tuple[str, str]:
    """Returns the paper's figure and how far below float it is."""
    if method not in PAPERS:
        return "", ""
    top1 = PAPERS[method].get(width)
    if top1 is None:
        return "no source", ""
    source = SECOND_HAND.get((method, width))
    return f"{top1:.2f}" + (f" ({source})" if source else ""), f"{PAPERS_FLOAT - top1:.2f}"


def apart(measured: Measured, first: str, second: str) -> Estimate | None:
    """Returns how far the second recipe is below the first; unpaired where no samples were kept."""
    score = measured.network.score
    if paired := difference(measured.rows[first], measured.rows[second], score):
        return paired
    one, two = measured.below(first), measured.below(second)
    return Estimate(two.value - one.value, (one.error**2 + two.error**2) ** 0.5) if one and two else None


def order(measured: Measured, width: str) -> Iterator[str]:
    """Yields how the methods with a published figure, if two or more, are ordered here and there."""
    drops = {m: found for m in PAPERS if width in PAPERS[m] and (found := measured.below(recipe_of(m, width)))}
    if len(drops) < 2:
        return
    ranked = sorted(drops, key=lambda method: drops[method].value)
    text = METHODS[ranked[0]]
    for pair in itertools.pairwise(ranked):
        found = apart(measured, *(recipe_of(m, width) for m in pair))
        text += f" {'>' if found and found.differs else '≈'} {METHODS[pair[1]]}"
    swapped = [
        f"{METHODS[b]} before {METHODS[a]}"
        for a, b in itertools.combinations(ranked, 2)
        if (found := apart(measured, recipe_of(a, width), recipe_of(b, width)))
        and found.differs
        and PAPERS[a][width] < PAPERS[b][width]
    ]
    yield ""
    mark = STALE if any(recipe_of(m, width) in measured.stale for m in ranked) else ""
    verdict = f"in the papers {', '.join(swapped)}" if swapped else "the papers do not contradict"
    yield f"Order: {text}; {verdict}{mark}."


def plot(measured: Measured, path: Path) -> None:
    """Draws points below float, with errors: a group of bars for each width."""
    figure, axes = picture(figsize=(8, 3.5))
    colours = ["#94a3b8", "#eab308", "#16a34a", "#db2777", "#2563eb", "#93c5fd", "#5eead4", "#14b8a6", "#0f766e", "#134e4a"]
    step, bar = 0.84 / len(METHODS), 0.78 / len(METHODS)
    for index, (method, title) in enumerate(METHODS.items()):
        axes.bar(0, 0, color=colours[index], label=title)  # for the legend, whatever has been run
        for place, width in enumerate(WIDTHS):
            found = measured.below(recipe_of(method, width))
            if found:
                x = place + step * (index - (len(METHODS) - 1) / 2)
                axes.bar(x, found.value, bar, yerr=found.error, color=colours[index], ecolor="#475569")
    axes.set_xticks(range(len(WIDTHS)), [width.upper() for width in WIDTHS])
    axes.set(ylabel="points below float", title="DeiT-T through onnxruntime; lower is better")
    axes.title.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save(figure, path)
