"""The images that a file is verified on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpass.cli.options import note

if TYPE_CHECKING:
    from qpass.cli.run_folder import Settings
    from qpass.graph.facts import GraphFacts


def sample_images(settings: Settings, facts: GraphFacts, count: int, data: Path | None = None) -> Any:
    """Returns images of ``data``, or of the calibration images, or else those stored in the graph.

    Args:
        settings: The settings of the run.
        facts: Facts of its graph.
        count: How many; a graph with a fixed batch gets as many as that has.
        data: Where to take them from instead.
    """
    from qpass.data import draw_images, image_batches, open_images
    from qpass.data.rows import batch_size as rows_of

    path = data or Path(settings.calibration)
    if data is None and not (settings.calibration and path.exists()):
        missing = f"the calibration images are no longer at {path}" if settings.calibration else "the folder names no images"
        args, _ = facts.example or ((), {})
        note(f"warning: {missing}; verifying on the {rows_of(facts.example)} that the graph stores; --data names others")
        return args[0]
    rows = count if facts.dynamic_batch else rows_of(facts.example)
    source = open_images(path, settings.transform, needs_labels=False)
    return next(iter(image_batches(draw_images(source, rows, seed=settings.seed), rows)))[0]
