"""What ``quantize`` prints: its report, and accuracy, speed, size and verification in one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpass.cli.doubts import doubt_of_file
from qpass.cli.labelled import FLOAT_FILE, QUANTIZED_FILE
from qpass.cli.options import console, note
from qpass.cli.run_folder import FLOAT, MODEL, REPORT
from qpass.runtime.plain_data import printable

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import VerifyReport
    from qpass.evaluation.top1 import Accuracy
    from qpass.report import QuantReport
    from qpass.report.data import Speed

#: Timed rounds: enough to tell a file that is slower from one that is twice as fast.
_ROUNDS = 10


def print_result(
    figures: QuantReport,
    folder: Path,
    verified: VerifyReport | None,
    top1: Mapping[str, Accuracy] | None = None,
    *,
    as_json: bool,
) -> None:
    """Times the file, unless it was not verified, and prints what a run has given.

    Args:
        figures: The report of the run.
        folder: Where the files are.
        verified: The verification; None if there was none.
        top1: Top-1 of the float file and of the quantized one, by name; None if it was not measured.
        as_json: Whether to print JSON.
    """
    from qpass.report.summary import summary

    speed = None if verified is None else _speed(folder)
    if as_json:
        found = {"folder": str(folder), **summary(figures), "speed": [] if speed is None else [asdict(speed)]}
        found["top1"] = None if top1 is None else {name: accuracy.top1 for name, accuracy in top1.items()}
        click.echo(json.dumps(found, indent=1))
        return
    console.print(str(figures), highlight=False)
    console.print("; ".join([f"written to {folder}", *map(str, figures.bits)]), highlight=False, soft_wrap=True)
    if (doubt := doubt_of_file(figures.processors, MODEL, figures.target)) is not None:
        note(f"note: {doubt}")
    if verified is None or speed is None:
        if top1 is not None:
            console.print(f"accuracy: {_top1(top1)}", highlight=False, soft_wrap=True)
    else:
        lines = closing_lines(figures, folder, verified, speed, top1)
        lines += verified.failures[1:] if verified.failures else [f"next: qpass report {folder}; open {folder / REPORT}"]
        console.print(printable("\n".join(lines)), highlight=False, soft_wrap=True)


def closing_lines(
    figures: QuantReport, folder: Path, verified: VerifyReport, speed: Speed, top1: Mapping[str, Accuracy] | None = None
) -> list[str]:
    """Returns the lines.

    Args:
        figures: The report of the run.
        folder: Where the files are.
        verified: The verification.
        speed: Speed of the file.
        top1: Top-1 of the float file and of the quantized one, if measured.
    """
    sizes = [(folder / name).stat().st_size for name in (MODEL, FLOAT)]
    images = "one image" if speed.batch == 1 else f"{speed.batch} images"
    lines = {
        "accuracy": _accuracy(figures) if top1 is None else _top1(top1),
        "speed": f"{speed.speedup:.2f} times float in onnxruntime, {images}, one thread",
        "size": f"{sizes[0] / 1e6:.2f} MB, {100 * sizes[0] / sizes[1]:.0f} % of float",
        "verified": verified.headline,
    }
    return [f"{name + ':':<10}{text}" for name, text in lines.items()]


def _top1(found: Mapping[str, Accuracy]) -> str:
    base, quantized = found[FLOAT_FILE], found[QUANTIZED_FILE]
    drop, error = quantized.drop_from(base)
    images = f"{len(base.correct)} images of --eval"
    return f"top-1 {quantized.top1:.2%} on {images}, {100 * drop:.2f} ± {100 * error:.2f} points below float"


def _accuracy(figures: QuantReport) -> str:
    if figures.agreement is None:
        return f"output SQNR {figures.output_sqnr_db:.1f} dB on {figures.samples} calibration samples"
    same, samples = figures.agreement.same, figures.agreement.samples
    return f"the same top-1 class as float on {same} of {samples} calibration samples"


def _speed(folder: Path) -> Speed:
    """Times the file of a folder against its float file, on one thread."""
    import qpass
    from qpass.report.data import Speed

    timed = qpass.benchmark_latency(
        folder / MODEL, baseline=folder / FLOAT, batches=(1,), threads=(1,), runs=_ROUNDS, progress=False
    )
    row = timed.rows[-1]
    return Speed(row.speedup, row.batch, row.threads, timed.machine)
