"""Carries out ``qpass quantize``: reads model and images, quantizes, writes the folder, verifies."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from qpass.cli.closing import print_result
from qpass.cli.doubts import doubts_of_folder, doubts_of_images, doubts_of_weights
from qpass.cli.image_errors import about_images
from qpass.cli.labelled import open_labelled, top1_of_files
from qpass.cli.outputs import FloatFile, float_file, prepare_folder, write_files, write_report
from qpass.cli.resumable import resumable
from qpass.cli.run_record import DigestOfBatches, command_line, file_digest, versions
from qpass.cli.transforms import model_transform
from qpass.graph.facts import facts_of

if TYPE_CHECKING:
    from torch import Tensor

    from qpass.cli.quantize_options import QuantizeOptions
    from qpass.zoo.source_model import SourceModel


def run(options: QuantizeOptions) -> bool:
    """Quantizes and writes everything.

    Returns:
        False if the file was verified and is not the graph's network.
    """
    from qpass.accuracy.shared_samples import SharedSamples
    from qpass.cli.run_folder import BLOCKS, CANDIDATES, MODEL, Settings, owned_folder
    from qpass.data import draw_images, image_batches, open_images
    from qpass.runtime.distributed import Processes, job
    from qpass.zoo.source_model import open_model

    output, goal = options.output, options.goal
    prepare_folder(output)
    with job(options.device) as device, ExitStack() as held:
        first = Processes.current().first
        if first:
            keeps_blocks = options.learns and options.checkpoint_dir is None and goal is None
            held.enter_context(owned_folder(output, keeps_blocks=keeps_blocks, discard=options.discard))
        source = open_model(options.model, options.checkpoint, image_size=options.image_size, **options.factory_arguments)
        changes = {name: getattr(options, name) for name in ("crop", "resize", "image_size", "mean", "std")}
        transform, known = model_transform(source, options.calib, **changes)
        count = options.asked or (1000 if options.learns else 128)
        images = draw_images(open_images(options.calib, transform, needs_labels=False), count, seed=options.seed)
        metric = None if goal is None else goal.metric(transform, min(options.batch_size, len(images)))
        labelled = None if options.eval_data is None else open_labelled(options.eval_data, transform)
        held.enter_context(about_images(options.calib))
        if first:
            batch = next(iter(image_batches(images, options.batch_size)))[0]
            _warn(options, source, batch, len(images))
            shown = (transform, options.names or source.class_names) if known else None
            float_network = held.enter_context(float_file(source.network, batch, output, shown))
            kind, place = ("candidate", CANDIDATES) if goal is not None else ("block" if options.learns else "", BLOCKS)
            held.enter_context(resumable(kind, options.checkpoint_dir or output / place))
        drawn, read = SharedSamples(()), (batch for batch, _ in image_batches(images, options.batch_size))
        batches = DigestOfBatches(read if labelled is None else drawn.noting(read))
        qmodel = _quantized(options, source, batches, metric, device)
        if not first:
            return True
        figures = write_files(qmodel, float_network, output, options.target, options.weight_type)
        Settings(
            model=_name(options, source),
            checkpoint="" if options.checkpoint is None else str(options.checkpoint.resolve()),
            model_args=options.model_args,
            calibration=str(options.calib.resolve()),
            transform=transform,
            seed=options.seed,
            images=images.names,
            **_record(options, source, batches, float_network),
        ).write(output)
        verified = top1 = None
        try:
            if not options.no_verify:
                verified = _verified(options, qmodel, batch)
            if labelled is not None:
                files = float_network.path, output / MODEL
                top1 = top1_of_files(qmodel, *files, labelled, options.batch_size, calibrated_on=drawn)
        finally:
            figures = write_report(figures, output, verified)
    print_result(figures, output, verified, top1, as_json=options.as_json)
    return verified is None or verified.passed


def _quantized(options: QuantizeOptions, source: SourceModel, batches: Any, metric: Any, device: Any) -> Any:
    import qpass
    from qpass.cli.run_folder import BLOCKS, CANDIDATES

    network, recipe = source.network, options.recipe
    shared: dict[str, Any] = {
        "device": device,
        "seed": options.seed,
        "max_memory": options.max_memory,
        "images": not options.no_images,
    }
    if options.goal is None:
        blocks = options.checkpoint_dir or options.output / BLOCKS
        return qpass.quantize_graph(network, batches, recipe, checkpoint_dir=blocks, **shared)
    return options.goal.quantize(
        network,
        batches,
        recipe,
        metric,
        options.output,
        folder=options.checkpoint_dir or options.output / CANDIDATES,
        target=options.target,
        weight_type=options.weight_type,
        quiet=options.as_json,
        **shared,
    )


def _record(
    options: QuantizeOptions, source: SourceModel, batches: DigestOfBatches, float_network: FloatFile
) -> dict[str, Any]:
    """Copies the model's companions, and returns what the settings record of the run."""
    from qpass.cli.run_folder import FLOAT, GRAPH, MODEL, companions_of
    from qpass.runtime.tensor_file import digest
    from qpass.zoo.pretrained import replace_companions

    files = {FLOAT: float_network.path, MODEL: options.output / MODEL, GRAPH: options.output / GRAPH}
    if options.checkpoint is not None:
        files["checkpoint"] = options.checkpoint
    return {
        "companions": replace_companions(companions_of(options.output), source.companions, options.output),
        "command": command_line(),
        "versions": versions(),
        "digests": {
            "model": digest("", source.network.state_dict().values()),
            "calibration": batches.value,
            **{name: file_digest(path) for name, path in files.items()},
        },
    }


def _verified(options: QuantizeOptions, qmodel: Any, batch: Tensor) -> Any:
    import qpass
    from qpass.cli.run_folder import MODEL

    rows = 8 if facts_of(qmodel).dynamic_batch else len(batch)
    return qpass.verify_onnx(qmodel, options.output / MODEL, batch[:rows], strict=False, max_memory=options.max_memory)


def _name(options: QuantizeOptions, source: SourceModel) -> str:
    return options.model if source.folder is None else str(source.folder.resolve())


def _warn(options: QuantizeOptions, source: SourceModel, batch: Tensor, count: int) -> None:
    """Warns of a run that works and whose result would mean nothing."""
    from qpass.data.images import is_array

    normalized = source.transform is not None
    for text in (
        *doubts_of_weights(options.model, options.checkpoint, source.folder),
        *doubts_of_folder(options.output, _name(options, source), options.recipe.name),
        *doubts_of_images(batch, count, options.asked, arrays=is_array(options.calib), normalized=normalized),
    ):
        warnings.warn(text, stacklevel=2)
