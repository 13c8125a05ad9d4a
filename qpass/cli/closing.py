"""The last lines that ``quantize`` prints: accuracy, speed, size and verification, each in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qpass.cli.outcomes import keep_verdict
from qpass.cli.run_folder import FLOAT, MODEL

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import VerifyReport
    from qpass.report import QuantReport

#: Timed rounds: enough to tell a file that is slower from one that is twice as fast.
_ROUNDS = 10


def check_file(qmodel: Any, images: Tensor, folder: Path, *, max_memory: float) -> VerifyReport:
    """Verifies the file of a folder, and adds the verdict to its report.

    Args:
        qmodel: The quantized graph.
        images: A batch that the graph accepts.
        folder: The folder.
        max_memory: GiB of memory for layer inputs.
    """
    import qpass

    result = qpass.verify_onnx(qmodel, folder / MODEL, images, strict=False, max_memory=max_memory)
    keep_verdict(folder, result)
    return result


def closing_lines(figures: QuantReport, folder: Path, verified: VerifyReport) -> list[str]:
    """Times the file, and returns the lines.

    Args:
        figures: The report of the run.
        folder: Where the files are.
        verified: The verification.
    """
    sizes = [(folder / name).stat().st_size for name in (MODEL, FLOAT)]
    lines = {
        "accuracy": _accuracy(figures),
        "speed": _speed(folder),
        "size": f"{sizes[0] / 1e6:.2f} MB, {100 * sizes[0] / sizes[1]:.0f} % of float",
        "verified": verified.headline,
    }
    return [f"{name + ':':<10}{text}" for name, text in lines.items()]


def _accuracy(figures: QuantReport) -> str:
    if figures.agreement is None:
        return f"output SQNR {figures.output_sqnr_db:.1f} dB on {figures.samples} calibration samples"
    same, samples = figures.agreement.same, figures.agreement.samples
    return f"the same top-1 class as float on {same} of {samples} calibration samples"


def _speed(folder: Path) -> str:
    import qpass

    timed = qpass.benchmark_latency(
        folder / MODEL, baseline=folder / FLOAT, batches=(1,), threads=(1,), runs=_ROUNDS, progress=False
    )
    row = timed.rows[-1]
    images = "one image" if row.batch == 1 else f"{row.batch} images"
    return f"{row.speedup:.2f} times float in onnxruntime, {images}, one thread"
