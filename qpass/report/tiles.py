"""The four figures at the top of a report: accuracy kept, size, speed, verified."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qpass.report.data import ReportData

#: Words for the error of an output that is no class scores, by the least SQNR in dB. 10 dB are an
#: error of a third of the output, 20 dB of a tenth, 30 dB of a thirtieth. Maps of DINOv2-S reach
#: 30.7 dB as w8a8, 23.0 as w4a8, 15.7 as w4a4 and 9.3 as w3a3 on images that calibrated nothing
#: (benchmarks/results/accuracy_dinov2.md). The words grade closeness to float on the samples of one
#: run: in one network, random weights reached 30.9 dB, and a ruined calibration 13.3 dB. Scores of
#: classes have no word: DeiT-T as w8a8 has 19.6 dB, and the class of float for 62 of 64 images.
WORDS = ((30.0, "excellent"), (20.0, "good"), (10.0, "fair"), (-math.inf, "poor"))
#: Share of agreement that is green if the whole 95 % interval is above it, and red if it is below.
ENOUGH = 0.9


@dataclass(frozen=True)
class Tile:
    """One figure.

    Attributes:
        title: What it is.
        value: The figure, or what is missing.
        note: What it rests on.
        tone: ``"good"``, ``"fair"``, ``"poor"`` or ``"open"``, which colours it.
        command: The command that fills it in; "" if it is known.
        purpose: What that command does.
    """

    title: str
    value: str
    note: str
    tone: str
    command: str = ""
    purpose: str = ""


def word(sqnr_db: float) -> str:
    """Returns the word for an output error: excellent, good, fair or poor; "unknown" for NaN."""
    return next((name for least, name in WORDS if sqnr_db >= least), "unknown")


def tiles(report: ReportData, folder: str = "out/") -> tuple[Tile, ...]:
    """Returns the four figures.

    Args:
        report: The report.
        folder: The folder that commands name.
    """
    return _accuracy(report), _size(report), _speed(report, folder), _verified(report, folder)


def file_sizes(report: ReportData) -> tuple[int, int, str] | None:
    """Returns the bytes of float and of quantized, and of what; None if the report has none."""
    for before, after, what in (
        ("file float.onnx", "file model.onnx", "files"),
        ("weights, float32", "weights, stored", "weights"),
    ):
        if report.sizes.get(before) and after in report.sizes:
            return report.sizes[before], report.sizes[after], what
    return None


def _accuracy(report: ReportData) -> Tile:
    decibels = report.output_sqnr_db
    if report.agreement is None:
        quality = word(decibels)
        tone = {"excellent": "good", "unknown": "open"}.get(quality, quality)
        share = "" if math.isnan(decibels) else f"an error of {_percent(10 ** (-decibels / 20))} of the output, "
        value = "unknown" if math.isnan(decibels) else f"{decibels:.1f} dB, {quality}"
        return Tile("Output error", value, f"{share}on {report.samples} calibration samples", tone)
    found, (low, high) = report.agreement, report.agreement.interval
    note = (
        f"{found.same} of {found.samples} calibration samples have the same top-1 class as float "
        f"(95 % interval: {low:.0%} to {high:.0%}); output error {decibels:.1f} dB"
    )
    return Tile("Accuracy kept", f"{found.share:.1%}".replace(".0%", "%"), note, _tone_of_share(low, high))


def _tone_of_share(low: float, high: float) -> str:
    """Returns the tone of an interval: few samples decide nothing."""
    return "good" if low >= ENOUGH else "fair" if high >= ENOUGH else "poor"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"


def _size(report: ReportData) -> Tile:
    found = file_sizes(report)
    if found is None:
        return Tile("Size against float", "not known", "the report has no sizes", "open")
    before, after, what = found
    return Tile(
        "Size against float",
        f"{after / before:.0%}",
        f"{after / 1e6:.2f} MB instead of {before / 1e6:.2f} MB ({what}), {before / max(after, 1):.1f} times smaller",
        "good" if after < before else "poor",
    )


def _speed(report: ReportData, folder: str) -> Tile:
    if not report.speed:
        return Tile(
            "Speed over float", "not measured", "on this machine:", "open", f"qpass bench {folder}", "Time it against float"
        )
    first, *others = sorted(report.speed, key=lambda speed: (speed.batch, speed.threads))
    also = "".join(f"; {each.speedup:.2f}x at batch {each.batch}, {_threads(each.threads)}" for each in others)
    tone = "good" if first.speedup > 1 else "poor"
    machine = f"; {first.machine}" if first.machine else ""
    return Tile(
        "Speed over float", f"{first.speedup:.2f}x", f"batch {first.batch}, {_threads(first.threads)}{also}{machine}", tone
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _verified(report: ReportData, folder: str) -> Tile:
    if report.verified is None:
        note, purpose = "code by code against the graph:", "Prove that the file computes what the graph computes"
        return Tile("Verified", "not yet", note, "open", f"qpass verify {folder}", purpose)
    found = report.verified
    return Tile("Verified", "yes" if found.passed else "NO", found.summary, "good" if found.passed else "poor")
