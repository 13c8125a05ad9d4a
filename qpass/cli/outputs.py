"""What ``quantize`` and ``demo`` write into a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qpass.errors import DataError
from qpass.graph.facts import update_facts
from qpass.runtime.atomic_write import draft_of, write_whole


def prepare_folder(folder: Path) -> None:
    """Makes a folder; rejects one that cannot be made or written to."""
    from qpass.backends.onnx_qdq.write import check_writable
    from qpass.cli.run_folder import MODEL

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot be made ({error.strerror})", where=str(folder)) from error
    check_writable(folder / MODEL)


@contextmanager
def float_file(network: Any, batch: Any, folder: Path) -> Iterator[Path]:
    """Exports the float network to a draft in a folder, and puts it in place when the block ends.

    A network that ONNX cannot express is thus rejected before it is quantized.

    Args:
        network: The model.
        batch: A batch of images.
        folder: The folder; it must exist.

    Yields:
        The path of the draft.

    Raises:
        TraceError: If the network cannot be captured.
        LoweringError: If it cannot be exported.
    """
    from qpass.backends.onnx_qdq.export import export_float
    from qpass.cli.run_folder import FLOAT
    from qpass.graph.capture.trace import trace

    with draft_of(folder / FLOAT) as draft:
        export_float(trace(network, (batch,)), draft)
        yield draft


def write_all(
    qmodel: Any, float_path: Path, folder: Path, settings: Any, target: str = "onnxruntime", weight_type: str = "auto"
) -> None:
    """Writes the ONNX file, graph, settings and report to an existing folder.

    ``float_path`` is the float file, whose size the report states.
    """
    import qpass
    from qpass.backends.onnx_qdq.export import processors
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import FIGURES, GRAPH, MODEL, REPORT

    qpass.export_onnx(qmodel, folder / MODEL, target=target, weight_type=weight_type)
    figures = qpass.quantization_report(qmodel)
    files = {f"file {path.name}": path.stat().st_size for path in (float_path, folder / MODEL)}
    figures = replace(
        figures,
        sizes={**figures.sizes, **files},
        target=target,
        options=target_by_name(target).options,
        processors=processors(qmodel, weight_type),
    )
    update_facts(qmodel, report=figures)
    qpass.save(qmodel, folder / GRAPH)
    write_whole(folder / FIGURES, figures.to_json())
    write_whole(folder / REPORT, figures.to_html())
    settings.write(folder)
