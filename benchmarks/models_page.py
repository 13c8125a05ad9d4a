"""docs/models.md: what ``models.py`` and ``suites.py`` found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from model_rows import Row

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"

_HEADER = """
| model | batch | Linears | attention matmuls | patch or 1x1 convolutions | stayed float | dB of float | ties | verified |
|---|---|---|---|---|---|---|---|---|"""

#: What the tests of the evaluators found; ``tests/contracts/test_onnx_node_tests.py`` fails if it
#: is no longer so.
_NODE_TESTS = """
## Suite: onnx's node tests

`pytest tests/contracts/test_onnx_node_tests.py`: onnx's backend tests of QuantizeLinear, DequantizeLinear, QLinearMatMul and
MatMulInteger, at opset 21 as our files have it. All 30 pass in the evaluator that judges our files and in onnxruntime: integers equal,
floats to 4 units in the last place. Those of 2-bit integers and float4, 6 tests, need a later opset and are left out."""


@dataclass
class Sweep:
    """One command's rows."""

    title: str
    command: str
    about: str
    rows: list[Row]
    not_run: list[str] = field(default_factory=list)


def read(path: Path) -> list[Sweep]:
    """Returns the sweeps of an earlier run, none where there was none."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Sweep(**{**sweep, "rows": [Row(**row) for row in sweep["rows"]]}) for sweep in found]


def write(path: Path, sweeps: Sequence[Sweep]) -> None:
    """Writes the data behind the page."""
    path.write_text(json.dumps([asdict(sweep) for sweep in sweeps], indent=1) + "\n", encoding="utf-8")


def render(sweeps: Sequence[Sweep], page: Path = PAGE) -> None:
    """Writes the page."""
    rows = [row for sweep in sweeps for row in sweep.rows]
    lines = [
        "# Models",
        "",
        f"**{sum(row.verified for row in rows)} of {len(rows)}** models with random weights are traced, quantized, exported and verified: codes",
        "are equal save for counted ties. Each section names its command, its code and its machine.",
        "",
        "*dB of float* is the signal over the error of the quantized graph against the float model: the worst output, on inputs that did",
        "not calibrate. A batch is fixed where the model's own code holds for one only. Convolutions whose windows overlap",
        "stay float in every model; of grouped ones whose windows tile their input the weights are integers. Detectors of torchvision, whose",
        "control flow depends on data, are quantized in parts: see",
        "[detection](../benchmarks/results/detection.md).",
    ]
    for sweep in sweeps:
        lines += _section(sweep)
    lines += _NODE_TESTS.split("\n")
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(sweep: Sweep) -> Iterator[str]:
    passed = sum(row.verified for row in sweep.rows)
    yield from ("", f"## {sweep.title}", "", *([sweep.about, ""] if sweep.about else []))
    yield f"`{sweep.command}`: **{passed} of {len(sweep.rows)}** verified. Made with {_made_with(sweep.rows)}."
    if sweep.not_run:
        yield from ("", f"Not run yet: {', '.join(sweep.not_run)}.")
    for library in dict.fromkeys(row.library for row in sweep.rows):
        yield from ("", f"### {library}", *_HEADER.split("\n"))
        yield from (_line(row) for row in sweep.rows if row.library == library)


def _made_with(rows: Sequence[Row]) -> str:
    """Returns what made the rows, with the number of rows of each where there are several."""
    counts = Counter(row.made_with for row in rows).most_common()
    return ". And ".join(f"{name} ({n} row{'s' * (n > 1)})" if len(counts) > 1 else name for name, n in counts)


def _line(row: Row) -> str:
    kept = "; ".join(f"{n} {why}" for why, n in row.stayed_float.items()) or "nothing"
    counts = " | ".join(str(row.counts.get(kind, 0)) for kind in ("linear", "matmul", "conv2d"))
    verdict = "yes" if row.verified else f"no: {row.error}"
    batch = "dynamic" if row.dynamic_batch else "fixed"
    decibels = "" if row.decibels is None else f"{row.decibels:.1f}"
    return f"| {row.model} | {batch} | {counts} | {kept} | {decibels} | {row.ties} | {verdict} |"
