"""Top-1 of a folder's networks on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpass.cli.doubts import doubt_of_labels
from qpass.errors import DataError
from qpass.graph.facts import facts_of

if TYPE_CHECKING:
    from qpass.accuracy.shared_samples import SharedSamples
    from qpass.data.image_source import ImageSource
    from qpass.evaluation.top1 import Accuracy

#: Names of the networks.
FLOAT_FILE, QUANTIZED_GRAPH, QUANTIZED_FILE = "float, onnxruntime", "quantized, torch", "quantized, onnxruntime"


def open_labelled(path: Path, transform: Any) -> ImageSource:
    """Opens images that have labels.

    Raises:
        DataError: If the images cannot be opened or have no labels.
    """
    from qpass.data import open_images

    images = open_images(path, transform)
    if images.labels is None:
        raise DataError("has no labels", where=str(path), expected="labels.csv, an ImageFolder, or y in .npz")
    return images


def top1_of_files(
    graph: Any,
    float_file: Path,
    file: Path,
    images: ImageSource,
    batch_size: int,
    *,
    with_graph: bool = False,
    calibrated_on: SharedSamples | None = None,
) -> dict[str, Accuracy]:
    """Returns top-1 of the float file and of the quantized one, by name, in one pass over the images.

    Warns if the float file does no better than guessing.

    Args:
        graph: The quantized graph.
        float_file: The float file.
        file: The file of the graph.
        images: Labelled images.
        batch_size: Images in a batch.
        with_graph: Whether to evaluate the graph in torch too.
        calibrated_on: Images that must not be among them.

    Raises:
        DataError: If an image was calibrated on.
    """
    import qpass
    from qpass.data import image_batches
    from qpass.data.rows import batch_size as rows_of
    from qpass.evaluation.top1 import evaluate_together, in_batches_of
    from qpass.progress import track

    predictors: dict[str, Callable[..., Any]] = {
        FLOAT_FILE: qpass.onnxruntime_model(graph, float_file),
        **({QUANTIZED_GRAPH: graph} if with_graph else {}),
        QUANTIZED_FILE: qpass.onnxruntime_model(graph, file),
    }
    if calibrated_on is not None:
        predictors[FLOAT_FILE] = calibrated_on.watching(predictors[FLOAT_FILE])
    if not facts_of(graph).dynamic_batch:
        rows = rows_of(facts_of(graph).example)
        predictors = {name: in_batches_of(rows, predict) for name, predict in predictors.items()}
    batches = track(image_batches(images, batch_size), "evaluate", total=-(-len(images) // batch_size))
    found = evaluate_together(predictors, batches)
    if (doubt := doubt_of_labels(found[FLOAT_FILE])) is not None:
        warnings.warn(doubt, stacklevel=2)
    return found
