"""What ``quantize`` and ``demo`` write into a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qpass.errors import DataError
from qpass.graph.facts import update_facts
from qpass.runtime.atomic_write import write_whole


def prepare_folder(folder: Path) -> None:
    """Makes a folder; rejects one that cannot be made or written to."""
    from qpass.backends.onnx_qdq.write import check_writable
    from qpass.cli.run_folder import MODEL

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot be made ({error.strerror})", where=str(folder)) from error
    check_writable(folder / MODEL)


def write_all(
    network: Any, qmodel: Any, folder: Path, settings: Any, target: str = "onnxruntime", weight_type: str = "auto"
) -> None:
    """Writes the ONNX file, graph, float file and report to an existing folder."""
    import qpass
    from qpass.backends.onnx_qdq.export import export_float, processors
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import FIGURES, FLOAT, GRAPH, MODEL, REPORT
    from qpass.graph.capture.trace import trace
    from qpass.graph.edit import example_inputs

    qpass.export_onnx(qmodel, folder / MODEL, target=target, weight_type=weight_type)
    export_float(trace(network, *example_inputs(qmodel)), folder / FLOAT)
    figures = qpass.quantization_report(qmodel)
    files = {f"file {name}": (folder / name).stat().st_size for name in (FLOAT, MODEL)}
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
