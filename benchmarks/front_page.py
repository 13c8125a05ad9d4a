"""The two pictures of the README: accuracy against size, and speed against other tools.

Run: python benchmarks/front_page.py
Writes: docs/images/accuracy_and_speed.svg for light pages, and ..._dark.svg for dark ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from accuracy_pages import Measured
from latency_page import first_setting
from pictures import picture, save

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
#: Files that a user of a CPU chooses between, and published methods at the same widths.
OURS = ("w8a8", "codebook-w4a8", "codebook-w3a8", "codebook-w4a4", "w4a4")
PUBLISHED = ("repq-vit-w8a8", "repq-vit-w4a8", "repq-vit-w4a4")
#: The model whose speed is shown, and the rows of its table by what they are called here.
FAST = "deit_small_patch16_224"
CONTENDERS = {
    "qpass in onnxruntime": "qpass w8a8, contrib",
    "qpass in OpenVINO": "qpass w8a8 in OpenVINO float32",
    "NNCF in OpenVINO": "NNCF int8, OpenVINO float32",
    "quantize_dynamic": "ort quantize_dynamic",
    "quantize_static": "ort quantize_static",
    "torchao int8": "torchao int8",
    "float onnxruntime": "float",
}
#: Text, grid, our color, and that of the others, also for the color-blind (Okabe and Ito).
THEMES = {
    "": {"text": "#1b1b1b", "grid": "#dddddd", "ours": "#0072B2", "others": "#999999"},
    "_dark": {"text": "#e6e6e6", "grid": "#444444", "ours": "#56B4E9", "others": "#8b8b8b"},
}


def speedups(cells: Mapping[str, Any]) -> dict[str, float]:
    """Returns the speed-up of each contender at batch 1 on one thread, in the order of ``CONTENDERS``."""
    found = {row["name"]: row["speedup"] for row in first_setting(cells[FAST]["rows"])}
    return {title: found[name] for title, name in CONTENDERS.items() if name in found}


def draw(deit: Measured, speeds: Mapping[str, float], colors: Mapping[str, str]) -> Any:
    """Returns the figure."""
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), colors["text"])
    spines = {"axes.spines.top": False, "axes.spines.right": False, "grid.color": colors["grid"], "axes.axisbelow": True}
    with plt.rc_context({**style, **spines, "font.size": 10}):
        figure, (left, right) = picture(1, 2, figsize=(10, 3.4))
        assert deit.base is not None
        score = deit.network.score
        groups = ((PUBLISHED, colors["others"], "RepQ-ViT", -9), (OURS, colors["ours"], "qpass", 3))
        for recipes, color, label, above in groups:
            shown = [recipe for recipe in recipes if recipe in deit.rows]
            points = [(100 * deit.rows[one][0].file_mb / deit.base.file_mb, deit.rows[one][0].scores[score]) for one in shown]
            left.scatter(*zip(*points, strict=True), color=color, label=label, s=36)
            for name, point in zip(shown, points, strict=True):
                left.annotate(
                    name.removeprefix("repq-vit-"), point, (6, above), textcoords="offset points", fontsize=8, color=color
                )
        left.axhline(deit.base.scores[score], color=colors["text"], lw=1, ls=":")
        left.annotate("float", (35, deit.base.scores[score]), (0, 3), textcoords="offset points", fontsize=8)
        left.set(xlabel="size of the file, % of float", ylabel="top-1, %", title="DeiT-T: accuracy and size", xlim=(10, 38))
        left.grid(visible=True)
        left.legend(frameon=False, loc="lower right")
        names = sorted(speeds, key=lambda name: speeds[name])
        right.barh(
            names, [speeds[name] for name in names], color=[colors["ours" if "qpass" in name else "others"] for name in names]
        )
        for place, name in enumerate(names):
            right.annotate(f"{speeds[name]:.2f}x", (speeds[name], place), (4, -3), textcoords="offset points", fontsize=8)
        right.set(xlabel="times the speed of float onnxruntime", title="DeiT-S, one image on one thread")
        right.margins(x=0.12)
        return figure


def main() -> None:
    """Draw both pictures."""
    cells = json.loads((ROOT / "benchmarks" / "results" / "latency.json").read_text(encoding="utf-8"))
    IMAGES.mkdir(exist_ok=True)
    for name, colors in THEMES.items():
        save(draw(Measured("deit-tiny"), speedups(cells), colors), IMAGES / f"accuracy_and_speed{name}.svg", transparent=True)


if __name__ == "__main__":
    main()
