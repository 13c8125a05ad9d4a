"""The command ``qpass``: demo, quantize, evaluate, verify, bench, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qpass.cli.command_group import OneLineGroup
from qpass.config.presets import POLISHES, PRESETS, SCHEDULES
from qpass.errors import ConfigError, DataError
from qpass.graph.facts import facts_of, update_facts
from qpass.runtime.arguments import SEEDS, usable_device
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.plain_data import printable
from qpass.runtime.storage import DEFAULT_GIB, bytes_of
from qpass.version import __version__

#: Paths and names contain brackets and colons that are not markup.
console = Console(markup=False, emoji=False)


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qpass")
def main() -> None:
    """Quantize vision transformers after training and deploy them as verified ONNX files.

    \b
    Workflow:
      qpass quantize deit_tiny_patch16_224 --checkpoint weights.safetensors \\
            --calib images.zip --config w8a8 --output out/
      qpass evaluate out/ --data validation.zip     top-1 of graph and file
      qpass verify   out/ --data images.zip         is the file the same network?
      qpass bench    out/                           is it faster than float?
      qpass report   out/                           what happened to each layer?

    'qpass demo' runs these steps on handwritten digits in about a minute, with nothing to download.
    """  # noqa: D301 (click reads the backspace)


_DATA = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)


def _renamed(new: str) -> Callable[..., Any]:
    """Returns the callback of an option's old name, which says the new one."""

    def warn(_: click.Context, option: click.Parameter, value: Any) -> Any:
        if value is not None:
            click.echo(f"warning: {option.opts[0]} is now {new}", err=True)
        return value

    return warn


def _image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--batch-size", type=_COUNT, default=16, show_default=True, help="Images in a batch."),
        click.option("--crop", type=_COUNT, help="Side of the centre crop in pixels  [default: the model's]"),
        click.option(
            "--resize",
            type=click.IntRange(min=0),
            help="Resize the shorter side to this first; 0 crops without resizing  [default: the model's]",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("model")
@click.option("--checkpoint", type=_DATA, help="Weights: safetensors, or a torch file (read without running any code in it).")
@click.option("--calib", type=_DATA, required=True, help="Folder, ImageFolder, .zip, .npy or .npz of calibration images.")
@click.option(
    "--calib-count",
    type=_COUNT,
    help="Calibration images to draw at random, spread over the classes  [default: 128, 1000 where the recipe learns]",
)
@click.option("--num-calib", type=_COUNT, hidden=True, callback=_renamed("--calib-count"), help="Old name of --calib-count.")
@click.option("--config", default="w8a8", show_default=True, help=f"A YAML file or a preset: {', '.join(PRESETS)}.")
@click.option(
    "--schedule", type=click.Choice(sorted(SCHEDULES)), help="Learning schedule, for recipes that learn  [default: quick]"
)
@click.option("--polish", type=click.Choice(sorted(POLISHES)), help="Learn each block after quantizing, for wXaY recipes.")
@click.option(
    "--checkpoint-dir",
    type=_DATA,
    help="Save learned blocks here  [default: in --output until the run is finished]. The same command resumes after the last"
    " saved block.",
)
@click.option(
    "--max-memory",
    default=DEFAULT_GIB,
    show_default=True,
    help="GiB of memory for images and values between layers; the rest goes to a temporary file.",
)
@click.option(
    "--target",
    default="onnxruntime",
    show_default=True,
    help="Runtime to write model.onnx for: onnxruntime, onnxruntime-contrib (its own operators too) or openvino.",
)
@click.option(
    "--weight-type",
    default="auto",
    show_default=True,
    help="Type of 8-bit weights and factors in model.onnx: int8, the fastest; uint8, exact on x86 without VNNI too; or auto,"
    " the fastest that is exact on this machine.",
)
@click.option("--output", type=_DATA, required=True, help="Folder to write to; created if missing.")
@click.option("--discard", is_flag=True, help="Delete blocks that an unfinished run left in --output, and start over.")
@click.option("--device", help="Where to calibrate, such as cuda  [default: cpu]")
@click.option(
    "--seed",
    type=click.IntRange(0, SEEDS - 1),
    default=0,
    show_default=True,
    help="Seed of everything random: which images are drawn, rotations, learning.",
)
@click.option(
    "--model-arg",
    "model_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Argument of the model's factory, such as img_size=384; may be given again.",
)
@_image_options
def quantize(
    model: str, checkpoint: Path | None, calib: Path, calib_count: int | None, num_calib: int | None, config: str,
    schedule: str | None, polish: str | None, checkpoint_dir: Path | None, max_memory: float, target: str, weight_type: str,
    output: Path, discard: bool, device: str | None, seed: int, model_args: tuple[str, ...], batch_size: int, crop: int | None,
    resize: int | None,
) -> None:  # fmt: skip
    """Quantize MODEL, a timm model's name or 'package.module:factory', and write ONNX, graph and report.

    The module of a factory may be in the current folder: 'mymodel:make' calls make() in mymodel.py.

    \b
    Writes into --output:
      model.onnx    the quantized file for onnxruntime
      model.qpass   the quantized graph for torch (qpass.load)
      float.onnx    the float file, the baseline of size and speed
      report.html   errors, ranges and histograms of every layer; report.json has the same data
      settings.json the model, the seed, and which calibration images were drawn
    """  # noqa: D301 (click reads the backspace)
    import qpass
    from qpass.backends.onnx_qdq.capabilities import use_int8_weights
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import BLOCKS, Settings, owned_folder
    from qpass.config import QuantConfig
    from qpass.data import draw_images, image_batches, open_images
    from qpass.runtime.distributed import Processes, job
    from qpass.zoo.timm_models import create_model

    # reject invalid arguments before any work is done
    target_by_name(target)
    use_int8_weights(weight_type)
    bytes_of(max_memory)
    factory_arguments = _named(model_args)
    if device is not None:
        usable_device(device)
    learning = {key: value for key, value in (("schedule", schedule), ("polish", polish)) if value is not None}
    recipe = QuantConfig.from_any({"preset": config, **learning} if learning else config)
    _prepare_folder(output)
    keeps_blocks = recipe.reconstruction is not None and checkpoint_dir is None
    with job(device) as device, ExitStack() as held:
        first = Processes.current().first
        if first:
            held.enter_context(owned_folder(output, keeps_blocks=keeps_blocks, discard=discard))
        network = create_model(model, checkpoint, **factory_arguments)
        transform = _transform(network, crop, resize)
        count = calib_count or num_calib or (128 if recipe.reconstruction is None else 1000)
        images = draw_images(open_images(calib, transform), count, seed=seed)
        qmodel = qpass.quantize_graph(
            network,
            (batch for batch, _ in image_batches(images, batch_size)),
            recipe,
            device=device,
            seed=seed,
            checkpoint_dir=checkpoint_dir or output / BLOCKS,
            max_memory=max_memory,
        )
        if not first:
            return
        settings = Settings(model=model, calibration=str(calib.resolve()), transform=transform, seed=seed, images=images.names)
        _write_all(network, qmodel, output, settings, target, weight_type)
    console.print(str(qpass.quantization_report(qmodel)), highlight=False)
    console.print(f"written to {output}", highlight=False)


@main.command()
@click.argument("folder", type=_DATA)
@click.option("--data", type=_DATA, required=True, help="Labelled images: ImageFolder, .zip + labels.csv, or .npz with x, y.")
@_image_options
def evaluate(folder: Path, data: Path, batch_size: int, crop: int | None, resize: int | None) -> None:
    """Measure top-1 of the float file, the quantized graph in torch, and its file in onnxruntime.

    Of several outputs, the class scores are the one called 'logits', or else the only 2-D one.
    """
    import qpass
    from qpass.cli.run_folder import FLOAT, GRAPH, MODEL, file_in
    from qpass.data import image_batches, open_images
    from qpass.data.rows import batch_size as rows_of
    from qpass.evaluation.top1 import evaluate_together, in_batches_of
    from qpass.progress import track

    source = open_images(data, _saved_transform(folder, crop, resize))
    graph = qpass.load(file_in(folder, GRAPH))
    predictors: dict[str, Callable[..., Any]] = {
        "float, onnxruntime": qpass.onnxruntime_model(graph, file_in(folder, FLOAT)),
        "quantized, torch": graph,
        "quantized, onnxruntime": qpass.onnxruntime_model(graph, file_in(folder, MODEL)),
    }
    if not facts_of(graph).dynamic_batch:
        rows = rows_of(facts_of(graph).example)
        predictors = {name: in_batches_of(rows, predict) for name, predict in predictors.items()}
    batches = track(image_batches(source, batch_size), "evaluate", total=-(-len(source) // batch_size))
    found = evaluate_together(predictors, batches)
    base = found["float, onnxruntime"]
    table = Table("network", "top-1", "below float", title=f"{len(base.correct)} images of {data.name}")
    for name, accuracy in found.items():
        drop, error = accuracy.drop_from(base)
        table.add_row(
            name, f"{accuracy.top1:.2%} ± {accuracy.standard_error:.2%}", f"{100 * drop:.2f} ± {100 * error:.2f} points"
        )
    console.print(table)


@main.command()
@click.argument("folder", type=_DATA)
@click.option("--data", type=_DATA, help="Images to verify on  [default: the calibration images]")
@click.option("--samples", type=_COUNT, default=8, show_default=True, help="How many images.")
@click.option(
    "--max-memory",
    default=DEFAULT_GIB,
    show_default=True,
    help="GiB of memory for layer inputs; the rest goes to a temporary file.",
)
@_image_options
def verify(
    folder: Path, data: Path | None, samples: int, batch_size: int, crop: int | None, resize: int | None, max_memory: float
) -> None:
    """Prove that model.onnx computes what the graph computes, code by code; exit code 2 if it does not."""
    import qpass
    from qpass.cli.run_folder import GRAPH, MODEL, SETTINGS, file_in, read_settings
    from qpass.data import draw_images, image_batches, open_images
    from qpass.data.rows import batch_size as rows_of

    settings = read_settings(folder)
    if data is None and not settings.calibration:
        raise DataError("names no calibration images", where=str(folder / SETTINGS), hint="name images with --data")
    source = open_images(data or Path(settings.calibration), _saved_transform(folder, crop, resize))
    graph = qpass.load(file_in(folder, GRAPH))
    count = samples if facts_of(graph).dynamic_batch else rows_of(facts_of(graph).example)
    images = next(iter(image_batches(draw_images(source, count, seed=settings.seed), count)))[0]
    result = qpass.verify_onnx(graph, file_in(folder, MODEL), images, strict=False, max_memory=max_memory)
    console.print(printable(str(result)), highlight=False)
    if not result.passed:
        raise click.exceptions.Exit(2)


def _explain(file: Path, batches: tuple[int, ...], threads: tuple[int, ...], runs: int, as_json: bool) -> None:
    from qpass.backends.onnxruntime import explain

    found = [explain(file, batch=batch, threads=count, runs=runs) for count in threads for batch in batches]
    click.echo(json.dumps([each.to_dict() for each in found], indent=1) if as_json else printable("\n\n".join(map(str, found))))


@main.command()
@click.argument("path", type=_DATA)
@click.option("--baseline", type=_DATA, help="Float ONNX file  [default: float.onnx beside it]")
@click.option("--batch", "batches", multiple=True, type=_COUNT, help="Batch size; may be given again  [default: 1 and 8]")
@click.option("--threads", multiple=True, type=_COUNT, help="Threads in an operator; may be given again  [default: 1 and 2]")
@click.option("--runs", type=_COUNT, default=30, show_default=True, help="Timed rounds for each setting.")
@click.option(
    "--explain", "explained", is_flag=True, help="Show where PATH's time goes instead, and what did not fuse and why."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    path: Path,
    baseline: Path | None,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    runs: int,
    explained: bool,
    as_json: bool,
) -> None:
    """Time PATH, an ONNX file or a folder from 'qpass quantize', against its float file, in alternation."""
    import qpass
    from qpass.cli.run_folder import FLOAT, MODEL, file_in

    file = file_in(path, MODEL) if path.is_dir() else path
    baseline = baseline or file.parent / FLOAT
    for needed in (file,) if explained else (file, baseline):
        if not needed.is_file():
            raise DataError(
                "no such file", where=str(needed), hint="" if needed == file else "name the float file with --baseline"
            )
    if explained:
        _explain(file, batches or (1,), threads or (1,), runs, as_json)
        return
    result = qpass.benchmark_latency(file, baseline=baseline, batches=batches or (1, 8), threads=threads or (1, 2), runs=runs)
    click.echo(json.dumps(result.to_dict(), indent=1) if as_json else printable(str(result)))


@main.command()
@click.argument("folder", type=_DATA)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(folder: Path, as_json: bool) -> None:
    """Print the errors of each block and layer, and rewrite report.html."""
    from qpass.cli.run_folder import FIGURES, REPORT, file_in
    from qpass.report import QuantReport

    path = file_in(folder, FIGURES)
    try:
        data = QuantReport.from_json(path.read_text(encoding="utf-8"))
        table, summary, page = _layer_table(data), str(data), data.to_html()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    if as_json:
        click.echo(data.to_json())
        return
    console.print(table)
    console.print(summary, highlight=False)
    write_whole(folder / REPORT, page)
    console.print(f"page: {folder / REPORT}", highlight=False)


@main.command()
@click.option("--output", type=_DATA, default=Path("demo"), show_default=True, help="Folder to write to.")
@click.option("--config", "configs", multiple=True, help="A preset; may be given again  [default: w8a8, w4a8, repq-vit-w4a4]")
@click.option("--epochs", type=_COUNT, default=40, show_default=True, help="Epochs of training.")
def demo(output: Path, configs: tuple[str, ...], epochs: int) -> None:
    """Train a small ViT on scikit-learn's digits, quantize, export, verify and time it, offline."""
    import qpass
    from qpass.backends.onnxruntime import OrtSession
    from qpass.cli.run_folder import FLOAT, MODEL, Settings
    from qpass.data import ImageTransform
    from qpass.evaluation.top1 import evaluate_top1
    from qpass.zoo.digits import load_digits, train_digits_vit

    for config in configs:
        qpass.QuantConfig.from_any(config)
    _prepare_folder(output)
    settings = Settings(model="digits", calibration="", transform=ImageTransform(crop=8, mean=(0.0,), std=(1.0,)))
    digits = load_digits()
    network = train_digits_vit(digits, epochs=epochs)
    test = [digits.evaluation]
    base = evaluate_top1(network, test)
    table = Table("config", "top-1 torch", "onnxruntime", "file / float", "verified", "speed-up", title="Handwritten digits")
    table.columns[0].no_wrap = True
    table.add_row("float", f"{base.top1:.1%}", "", "", "", "")
    for config in configs or ("w8a8", "w4a8", "repq-vit-w4a4"):
        folder = output / config
        folder.mkdir(exist_ok=True)
        qmodel = qpass.quantize_graph(network, [digits.calibration], config)
        _write_all(network, qmodel, folder, settings)
        verified = qpass.verify_onnx(qmodel, folder / MODEL, digits.calibration[:16], strict=False)
        timing = qpass.benchmark_latency(folder / MODEL, baseline=folder / FLOAT, batches=(8,), runs=100)
        table.add_row(
            config,
            f"{evaluate_top1(qmodel, test).top1:.1%}",
            f"{evaluate_top1(OrtSession(folder / MODEL), test).top1:.1%}",
            f"{(folder / MODEL).stat().st_size / (folder / FLOAT).stat().st_size:.0%}",
            "yes" if verified.passed else "NO",
            f"{timing.rows[-1].speedup:.2f}x",
        )
        if verified.verdict != "passed":
            console.print(str(verified), highlight=False)
    console.print(table)
    console.print(f"files and report.html of each config: {output}/", highlight=False)


def _prepare_folder(folder: Path) -> None:
    from qpass.backends.onnx_qdq.write import check_writable
    from qpass.cli.run_folder import MODEL

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot be made ({error.strerror})", where=str(folder)) from error
    check_writable(folder / MODEL)


def _transform(network: Any, crop: int | None, resize: int | None) -> Any:
    from qpass.zoo.timm_models import default_transform

    return _changed(default_transform(network), crop, resize)


def _changed(transform: Any, crop: int | None, resize: int | None) -> Any:
    if crop is not None:
        transform = replace(transform, crop=crop)
    return transform if resize is None else replace(transform, resize=resize or None)


def _saved_transform(folder: Path, crop: int | None, resize: int | None) -> Any:
    from qpass.cli.run_folder import read_settings

    return _changed(read_settings(folder).transform, crop, resize)


def _named(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Returns ``name=value`` arguments as a mapping; values are parsed as YAML."""
    import yaml

    found = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.isidentifier():
            raise ConfigError(f"got {argument!r}", where="--model-arg", expected="NAME=VALUE, such as img_size=384")
    return found


def _write_all(
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


def _layer_table(data: Any) -> Table:
    table = Table("layer", "kind", "weight bits", "input bits", "SQNR dB", title=f"{data.model}, {data.config['name']}")
    for row in data.layers:
        bits = "/".join("float" if b is None else str(b) for b in row.input_bits)
        weight = "" if row.kind == "matmul" else str(row.weight_bits or "float")
        table.add_row(row.path, row.kind, weight, bits, f"{row.sqnr_db:.1f}")
    return table


if __name__ == "__main__":
    main()
