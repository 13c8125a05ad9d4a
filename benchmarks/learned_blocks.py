"""What was learned of each block: errors, ranks, and b1 and b2 beside the paper's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qpass.reconstruction.record import BlockRecord
from qpass.runtime.records import record

#: b2 of AIQViT (arXiv 2502.04628) for DeiT-T at W4A4, blocks 0 to 11; its b1 are .01 to .02.
PAPER_B2 = (0.17, 0.21, 0.21, 0.13, 0.11, 0.12, 0.13, 0.11, 0.09, 0.05, 0.09, 0.11)


def write(results: Path, recipe: str, records: Sequence[BlockRecord]) -> None:
    """Adds or replaces a recipe's blocks in ``learned_blocks.json`` and writes ``learned_blocks.md`` anew."""
    file = results / "learned_blocks.json"
    known: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known[recipe] = [dataclasses.asdict(record) for record in records]
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# Learned blocks",
        "",
        "Written by `python benchmarks/accuracy.py` with each row that learns. Errors are squared errors of a block's output over the",
        "squared output, on the calibration images, behind the quantized blocks before it. b1 and b2 bound the codes of the Softmax",
        "output, and the reading says how codes decode; the paper's b2 are for W4A4. A rank is undecided if its share in the search is",
        "less than 1.5 times the next one's.",
    ]
    for name, blocks in known.items():
        lines += ["", f"## {name}", "", *_table([record(BlockRecord, block, name) for block in blocks])]
    (results / "learned_blocks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(records: Sequence[BlockRecord]) -> list[str]:
    most = max(records, key=lambda record: len(record.ranks))
    layers = [path.removeprefix(f"{most.path}.") for path in most.ranks]
    focuses = any(one.intervals for one in records)
    header = ["block", "error before", "after", *(f"rank of {layer}" for layer in layers)]
    header += ["b1", "paper's b1", "b2", "paper's b2", "reading"] if focuses else []
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    paper = iter(PAPER_B2)
    for one in records:
        cells = [one.label, f"{one.error_before:.4f}", f"{one.error_after:.4f}", *(_rank(one, layer) for layer in one.ranks)]
        for b1, b2, reading in one.intervals.values():
            cells += [f"{b1:.3f}", ".01 to .02", f"{b2:.2f}", f"{next(paper):.2f}", reading]
        lines.append(f"| {' | '.join(cells + [''] * (len(header) - len(cells)))} |")
    return [*lines, *_searches(records)]


def _rank(one: BlockRecord, layer: str) -> str:
    """Names a rank, and says whether it is full and whether the search decided on it."""
    notes = ["full"] if layer in one.full_ranks else []
    notes += ["undecided"] if layer in one.searches and not one.searches[layer].decided else []
    return ", ".join([str(one.ranks[layer]), *notes])


def _searches(records: Sequence[BlockRecord]) -> list[str]:
    """Returns how decided the searches were over the steps."""
    searches = {layer: search for one in records for layer, search in one.searches.items()}
    if not searches:
        return []
    count = len(next(iter(searches.values())).entropies)
    lines = [
        "",
        "Normalized entropy of the candidates' shares during the rank search (1: all are equal):",
        "",
    ]
    lines += [
        f"| layer | {' | '.join(f'{100 * (i + 1) // count} %' for i in range(count))} | best share |",
        "|---" * (count + 2) + "|",
    ]
    for layer, search in searches.items():
        cells = " | ".join(f"{entropy:.2f}" for entropy in search.entropies)
        lines.append(f"| {layer} | {cells} | {max(search.shares):.2f} of {len(search.candidates)} |")
    return lines
