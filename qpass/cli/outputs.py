"""What ``quantize`` and ``demo`` write into a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qpass.cli.outcomes import verdict_of
from qpass.errors import DataError
from qpass.graph.facts import update_facts
from qpass.runtime.atomic_write import draft_of, write_whole

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import VerifyReport
    from qpass.report import QuantReport


def prepare_folder(folder: Path) -> None:
    """Makes a folder; rejects one that cannot be made or written to."""
    from qpass.backends.onnx_qdq.write import check_writable
    from qpass.cli.run_folder import MODEL

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot be made ({error.strerror})", where=str(folder)) from error
    check_writable(folder / MODEL)


class FloatFile(NamedTuple):
    """The float file of a run.

    Attributes:
        path: The file.
        images: How images become its input, as plain data; None if unknown.
    """

    path: Path
    images: dict[str, Any] | None


@contextmanager
def float_file(network: Any, batch: Any, folder: Path, shown: tuple[Any, Sequence[str]] | None = None) -> Iterator[FloatFile]:
    """Exports the float network to a draft in a folder, and puts it in place when the block ends.

    A network that ONNX cannot express is thus rejected before it is quantized.

    Args:
        network: The model.
        batch: A batch of images.
        folder: The folder; it must exist.
        shown: The transform of its images and the names of its classes; None if unknown.

    Yields:
        The draft, with what describes its images if the transform gives one of its inputs.

    Raises:
        TraceError: If the network cannot be captured.
        LoweringError: If it cannot be exported.
    """
    from qpass.backends.onnx_qdq.export import export_float
    from qpass.backends.onnx_qdq.preprocessing import describe_preprocessing, preprocessing_metadata, takes_images
    from qpass.cli.run_folder import FLOAT
    from qpass.graph.capture.trace import trace

    graph = trace(network, (batch,))
    images = describe_preprocessing(graph, *shown) if shown and takes_images(graph, shown[0]) else None
    with draft_of(folder / FLOAT) as draft:
        export_float(graph, draft, metadata=preprocessing_metadata(images))
        yield FloatFile(draft, images)


def write_files(
    qmodel: Any, float_network: FloatFile, folder: Path, target: str = "onnxruntime", weight_type: str = "auto"
) -> QuantReport:
    """Writes the ONNX file and the graph to an existing folder, and a script that runs the file.

    The script is written if the float file says how images become its input. Then the ONNX file says
    it too. What was made from the files of an earlier run is removed.

    Returns:
        The report, with the sizes of the files.
    """
    import qpass
    from qpass.backends.onnx_qdq.export import export_quantized, processors
    from qpass.backends.onnx_qdq.preprocessing import preprocessing_metadata
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import GRAPH, MODEL, remove_derived
    from qpass.graph.device import on_cpu

    metadata = preprocessing_metadata(float_network.images)
    export_quantized(on_cpu(qmodel), folder / MODEL, target=target, weight_type=weight_type, metadata=metadata)
    remove_derived(folder)
    _write_script(float_network.images, folder)
    figures = qpass.quantization_report(qmodel)
    files = {f"file {path.name}": path.stat().st_size for path in (float_network.path, folder / MODEL)}
    figures = replace(
        figures,
        sizes={**figures.sizes, **files},
        target=target,
        options=target_by_name(target).options,
        processors=processors(qmodel, weight_type, target),
    )
    update_facts(qmodel, report=figures)
    qpass.save(qmodel, folder / GRAPH)
    return figures


def write_report(figures: QuantReport, folder: Path, verified: VerifyReport | None) -> QuantReport:
    """Writes a report and its page with the verdict on the file, and returns it.

    Args:
        figures: The report.
        folder: The folder.
        verified: The verification; None if there was none.
    """
    from qpass.cli.run_folder import FIGURES, REPORT

    if verified is not None:
        figures = replace(figures, verified=verdict_of(verified))
    write_whole(folder / FIGURES, figures.to_json())
    write_whole(folder / REPORT, figures.to_html())
    return figures


def _write_script(images: Mapping[str, Any] | None, folder: Path) -> None:
    """Writes the script and what it reads, or removes those of an earlier run."""
    from qpass.backends.deployed.script import run_script
    from qpass.cli.run_folder import IMAGES, SCRIPT

    if images is None:
        for name in (IMAGES, SCRIPT):
            (folder / name).unlink(missing_ok=True)
        return
    write_whole(folder / IMAGES, json.dumps(images, indent=1))
    write_whole(folder / SCRIPT, run_script())
