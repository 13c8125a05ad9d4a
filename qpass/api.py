"""The public functions. They check their arguments, call the layers below, and hold no logic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from qpass.accuracy.candidates import STARTS
from qpass.accuracy.drop import Metric
from qpass.compiler.request import Request
from qpass.config import QuantConfig
from qpass.data import Batch, ImageLoader, ImageTransform
from qpass.data.batches import model_inputs
from qpass.errors import ConfigError, QPassError
from qpass.graph.device import on_cpu
from qpass.graph.facts import facts_of
from qpass.graph.parts import parts_of
from qpass.report import QuantReport
from qpass.report.sensitivity import SensitivityReport
from qpass.runtime.storage import DEFAULT_GIB, Storage, bytes_of
from qpass.runtime.torch_modes import in_known_state
from qpass.serialize import load_graph, save_graph

if TYPE_CHECKING:
    from qpass.accuracy import AccuracyResult
    from qpass.backends.onnxruntime import LatencyReport, VerifyReport
    from qpass.evaluation.scores import SampleMetric, SampleScores


@in_known_state
def quantize_graph(
    model: nn.Module,
    calib_loader: Iterable[Batch],
    config: QuantConfig | Mapping[str, Any] | str | Path = "w8a8",
    *,
    example_inputs: Batch | None = None,
    transform_fn: Callable[[Any], Batch] | None = None,
    submodules: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    max_memory: float = DEFAULT_GIB,
    progress: bool = True,
    images: bool = True,
) -> fx.GraphModule:
    """Quantizes a float model after training, from calibration data alone.

    The caller's modes do not affect the result and stay unchanged: grad and inference mode, autocast,
    default dtype and device, and torch's random state. Threads that call qpass concurrently take turns.

    If torch.distributed is initialized, every process calls this with the same arguments, does its
    share of the work and returns the same network (see docs/how-to/several-processes.md).

    Args:
        model: Any model that torch.export can capture. It is not modified, and the result shares
            nothing with it. Weights of other float dtypes are converted to float32, with a warning.
        calib_loader: Yields batches: tensors (batch, ...), (inputs, target) pairs, or mappings,
            dataclasses or NamedTuples of inputs by name. A list of batches works, and a single tensor
            is one batch. Small batches are merged and large ones split. 32 to 128 samples are enough
            for recipes without learning; ``aiqvit`` recipes need about 1,000. All batches must have the
            same inputs. Values other than tensors must be equal in all batches: they become constants,
            and the graph rejects any other value. Keys that the model's forward does not accept, and
            labels that only its loss needs, are dropped. A warning reports both.
        config: A preset's name (``"w8a8"``, ``"w6a6"``, ``"w4a8"``, ``"w4a4"``,
            ``"mixed-w4a5"``, ``"codebook-w4a4"``, ``"repq-vit-w4a4"``, ``"aiqvit-w4a4"``, ...), a
            ``QuantConfig``, a mapping, or the path of a YAML file.
        example_inputs: A batch to trace the model with; None uses the first calibration batch.
        transform_fn: Converts what the loader yields to a batch.
        submodules: Names of submodules to quantize instead of the whole model, for models with
            data-dependent control flow. Each is traced with its real inputs and replaced in a copy of
            the model, which is returned. Sizes that vary between calls are dynamic where the submodule
            allows it. Otherwise its graph supports the most frequent sizes, and rejects others.
        exclude: Globs on module paths, as in ``model.named_modules()``: the layers that match stay
            float, such as ``["head", "blocks.0.*"]``. Each must match a layer that could be quantized.
        dynamic_shapes: The dynamic dims of the inputs, as in ``torch.export.export``: by input name, a
            name or a ``torch.export.Dim`` for each dynamic dim, such as ``{"input_ids": {0: "texts", 1:
            "tokens"}}``. Dims with the same name are equal in every call. For inputs that are not
            named, and with None, dim 0 of each tensor is dynamic where the model allows it: tracing
            finds which of them must be equal, and the others may differ, such as the numbers of images
            and texts in CLIP. With ``submodules``, a mapping of their names to such mappings.
        device: Where to trace, calibrate and learn; None uses the model's device. Batches are moved
            there. The result is always on the model's device.
        seed: Random seed, 0 to 2**32 - 1; the same seed gives the same bits on the same machine.
        checkpoint_dir: Where recipes that learn save each finished block. The same call with the same
            folder resumes after the last one and gives bit-identical results. A folder of another
            model, calibration data, config or seed is rejected before any work is done, and so is one
            that another run is writing to. None saves nothing.
        max_memory: GiB of memory for what is kept of calibration data, such as batches and the values
            between layers; the rest goes to a temporary file (in ``TMPDIR``). The model, two copies of
            it, histograms, and the values of one batch are not counted.
        progress: Whether to show progress bars on standard error.
        images: Whether the report shows four small calibration images. With False it has their ranges,
            means and deviations only.

    Returns:
        A ``torch.fx.GraphModule`` that computes the quantized network with the model's inputs and
        outputs; with ``submodules``, a copy of the model that contains such graphs.

    Raises:
        ConfigError: If the config cannot be carried out, a pattern matches no layer,
            ``dynamic_shapes`` do not match the inputs, or the device is not available.
        CalibrationError: If the calibration data cannot be used.
        TraceError: If the model cannot be captured, its outputs depend on earlier calls, or it does not
            support the dims in ``dynamic_shapes``.
        SourceError: If the graph does not compute what the model computes. It is compared after every
            pass that keeps the function, on calibration samples.
        UnsupportedError: If weights are NaN or infinite, or have no values, or the model is already
            quantized.
        DistributedError: If processes were given different arguments, or one of them ends.
    """
    request = Request(
        config=QuantConfig.from_any(config).excluding(exclude),
        example_inputs=example_inputs,
        transform_fn=transform_fn,
        submodules=submodules,
        dynamic_shapes=dynamic_shapes,
        device=device,
        seed=seed,
        checkpoint_dir=checkpoint_dir,
        max_memory=max_memory,
        progress=progress,
        images=images,
    )
    return request.carry_out(model, calib_loader)  # type: ignore[return-value]


@in_known_state
def quantize_to_accuracy(
    model: nn.Module,
    calib_loader: Iterable[Batch],
    config: QuantConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    evaluate: Metric,
    max_drop: float,
    prefer: str = "size",
    measure_speed: bool = False,
    folder: str | Path | None = None,
    target: str = "onnxruntime",
    weight_type: str = "auto",
    threads: int = 0,
    example_inputs: Batch | None = None,
    transform_fn: Callable[[Any], Batch] | None = None,
    exclude: Sequence[str] = (),
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    max_memory: float = DEFAULT_GIB,
    progress: bool = True,
    images: bool = True,
) -> AccuracyResult:
    """Quantizes as narrowly as a metric allows: a file whose score drops by at most ``max_drop``.

    Starts with the recipe as it is. If its score drops too far, the tensors that lose most for what
    they cost get more bits, up to 8, and then whole layers stay float, at most half of the network.
    The order comes from ``sensitivity_report``; the metric decides. Every candidate is exported and
    evaluated in onnxruntime. Few are tried: the search halves what lies between one that drops too
    far and one that does not, so the candidate before the chosen one was tried, and drops too far.

    If ``evaluate`` returns a score for each sample, a candidate is taken if its drop is at most
    ``max_drop`` with a confidence of 95 %, one-sided: by Tango's limit for paired proportions if all
    scores are 0 or 1 (or 0 or 100), else by a paired t test. If it returns a single number, the drop
    itself is compared, which says nothing about other samples. Since the candidate is chosen on these
    samples, its score on them is not an unbiased estimate; measure it on others.

    Args:
        model: As for ``quantize_graph``, as are all arguments not named here.
        calib_loader: Batches of calibration data.
        config: The recipe to start from, without a budget; None is ``"w4a8"`` where size is
            preferred and ``"w8a8"`` where speed is.
        evaluate: Called with a function that is called like the model, it returns the score, higher
            is better: a list or 1-D array or tensor with one for each sample, in the same order each
            time, or a single number. It must not evaluate on calibration samples.
        max_drop: Largest drop from the float model, in units of the score.
        prefer: ``"size"`` or ``"speed"``: what a candidate's changes should cost least of.
        measure_speed: Whether to time each candidate against the float network.
        folder: Where to keep the scores of what was tried. The same call with the same folder tries
            nothing twice; other values of ``config``, ``max_drop`` and ``prefer`` may share the folder.
            None keeps nothing.
        target: As for ``export_onnx``, as is ``weight_type``: export the result with the same ones.
        weight_type: dtype of 8-bit weights and second factors of products.
        threads: Threads of onnxruntime during evaluation; 0 uses its default, one per core.
        example_inputs: A batch to trace the model with.
        transform_fn: Converts what the loader yields to a batch.
        exclude: Globs on module paths of layers that stay float.
        dynamic_shapes: The dynamic dims of the inputs.
        device: Where to calibrate.
        seed: Random seed.
        max_memory: GiB of memory for what is kept of calibration data.
        progress: Whether to show on standard error what is tried, and progress bars.
        images: Whether the report shows four small calibration images.

    Returns:
        The result: ``print`` it, export its ``graph``, or read ``config``, ``drop`` and ``trials``.

    Raises:
        AccuracyError: If even the widest candidate drops further. Its ``table`` lists what was tried.
        ConfigError: If the samples are too few to show such a drop, the recipe has a budget, or
            ``evaluate`` returns something else.
        DataError: If ``evaluate`` uses a calibration sample.
        CalibrationError, TraceError, SourceError, UnsupportedError: As ``quantize_graph``.
    """
    from qpass.accuracy.keep import Goal, keep_accuracy

    goal = Goal(
        evaluate=evaluate,
        max_drop=max_drop,
        prefer=prefer,
        measure_speed=measure_speed,
        target=target,
        weight_type=weight_type,
        threads=threads,
    )
    request = Request(
        config=QuantConfig.from_any(STARTS[prefer] if config is None else config).excluding(exclude),
        example_inputs=example_inputs,
        transform_fn=transform_fn,
        dynamic_shapes=dynamic_shapes,
        device=device,
        seed=seed,
        max_memory=max_memory,
        progress=progress,
        images=images,
    )
    kept = None if folder is None else Path(folder)
    return keep_accuracy(request, request.read(model, calib_loader), goal, kept)


@in_known_state
def export_onnx(
    qmodel: nn.Module,
    path: str | Path,
    *,
    opset: int | None = None,
    target: str = "onnxruntime",
    weight_type: str = "auto",
    preprocessing: ImageTransform | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Writes a quantized graph as an ONNX QDQ file, atomically.

    Weights are stored as integers at their bit width. The batch dim is dynamic if the graph's is.
    Inputs keep their names, and outputs the keys of a dict output (``output`` for a single one).

    Args:
        qmodel: Output of ``quantize_graph``.
        path: The file; its folder must exist. Above 2 GB the weights are written beside it to
            ``<name>.data``. For a model quantized in parts (``submodules``) it is a folder, with
            ``<path of the part>.onnx`` for each.
        opset: ONNX opset, 20 or later; None uses 21, or 20 for TensorRT.
        target: The runtime to write for: ``"onnxruntime"``, standard operators only;
            ``"onnxruntime-contrib"``, onnxruntime's own operators where they save work; ``"openvino"``,
            standard operators in the form that it fuses; ``"tensorrt"``, explicit quantization as its
            parser takes it, for graphs quantized with ``signed_codes`` (no file was run in TensorRT).
            All of them compute the same network and run in onnxruntime.
        weight_type: dtype of 8-bit weights and second factors of products. ``"int8"``, the fastest, is
            exact on ARM and on x86 with AVX512-VNNI or AVX-VNNI; older x86 processors add pairs of
            products in 16 bits, which overflows. ``"uint8"`` is exact everywhere. ``"auto"`` tests this
            machine; use ``"uint8"`` for files that also run on older ones. Fewer bits do not overflow
            and are always int8.
        preprocessing: How images become the input. It is written to the file's metadata as JSON, under
            ``qpass.preprocessing``, for programs that run the file. None writes nothing.
        class_names: Names of the classes, in the order of the scores; written with ``preprocessing``.

    Returns:
        The path.

    Raises:
        ConfigError: If ``class_names`` are given without ``preprocessing``, or either for a model
            quantized in parts.
        LoweringError: If the path cannot be written, target or dtype is unknown, the target cannot
            express the graph, onnxruntime does not load the opset, a module has no lowering, or no
            input takes what ``preprocessing`` gives.
    """
    from qpass.backends.onnx_qdq import export_quantized
    from qpass.backends.onnx_qdq.preprocessing import describe_preprocessing, preprocessing_metadata
    from qpass.backends.parts import export_parts

    _check_class_names(class_names, preprocessing, "export_onnx")
    if _has_parts(qmodel):
        if preprocessing is not None:
            raise ConfigError(
                "given for a model quantized in parts",
                where="export_onnx, preprocessing",
                hint="the images go to what stays in torch, not to the files",
            )
        return export_parts(on_cpu(qmodel), Path(path), opset=opset, target=target, weight_type=weight_type)
    graph = on_cpu(_quantized(qmodel, "export_onnx"))
    images = None if preprocessing is None else describe_preprocessing(graph, preprocessing, class_names)
    metadata = preprocessing_metadata(images)
    return export_quantized(graph, path, opset=opset, target=target, weight_type=weight_type, metadata=metadata)


@in_known_state
def export_float(
    model: nn.Module,
    example: Batch,
    path: str | Path,
    *,
    opset: int | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    preprocessing: ImageTransform | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Writes a float model as an ONNX file: the baseline that ``qpass quantize`` writes as float.onnx.

    It is written like a quantized file, by the same exporter with the same simplifications, so sizes
    and times of the two can be compared.

    Args:
        model: The float model; it is not modified. Weights of other float dtypes become float32.
        example: A batch to trace the model with, as ``quantize_graph`` takes them.
        path: The file; its folder must exist. Above 2 GB the weights are written beside it to
            ``<name>.data``.
        opset: ONNX opset, 20 or later; None uses 21.
        dynamic_shapes: The dynamic dims of the inputs, as for ``quantize_graph``.
        preprocessing: How images become the input, as for ``export_onnx``.
        class_names: Names of the classes, in the order of the scores; written with ``preprocessing``.

    Returns:
        The path.

    Raises:
        TraceError: If the model cannot be captured.
        UnsupportedError: If weights are NaN or infinite, or the model is quantized.
        LoweringError: If the path cannot be written, or an operator cannot be exported.
        ConfigError: If ``class_names`` are given without ``preprocessing``.
    """
    from qpass.backends.float_file import write_float

    _check_class_names(class_names, preprocessing, "export_float")
    return write_float(
        model,
        example,
        Path(path),
        opset=opset,
        dynamic_shapes=dynamic_shapes,
        preprocessing=preprocessing,
        class_names=class_names,
    )


@in_known_state
def verify_onnx(
    qmodel: nn.Module,
    path: str | Path,
    inputs: Batch,
    *,
    strict: bool = True,
    max_memory: float = DEFAULT_GIB,
    runtime: str = "onnxruntime",
) -> VerifyReport:
    """Proves that the file in onnxruntime computes what the graph computes in torch.

    All checks run twice, with optimizations off and as shipped. First, each layer is fed with torch's
    codes: its codes must be equal except for counted ties, and every output must equal torch's within
    float32 rounding. With optimizations off, the values that are rounded to codes and the outputs of
    all quantized layers are compared too, and random codes exercise every weight. Then the network runs
    as a whole: outputs may differ from torch's by at most 1.5 times what torch in float32 differs from
    torch in float64 and from itself with ties rounded differently. Ties cascade, and no fixed tolerance
    suits every network. If ties move an output as far as its input does, the whole run proves nothing.
    The report's ``verdict`` says so. It also says where the comparison with the caller's model proves
    nothing, or where rounding decides a layer's output.

    Args:
        qmodel: Output of ``quantize_graph``.
        path: File that ``export_onnx`` wrote from it.
        inputs: One batch; a handful of real samples is enough. Parts are verified on every form of call
            that the model makes.
        strict: Raise if a bound is exceeded; False returns the report instead.
        max_memory: GiB of memory for layer inputs; the rest goes to a temporary file.
        runtime: ``"openvino"`` also runs the whole file in OpenVINO, with floats in float32, and holds
            its outputs to the same bound. OpenVINO cannot be fed codes: layers are compared in
            onnxruntime only.

    Returns:
        The report: ``print`` it, or read ``passed``, ``verdict``, ``checks`` and ``to_dict()``.

    Raises:
        VerifyError: If a bound is exceeded (``strict``), or the file does not belong to this graph.
        LoweringError: If onnxruntime or OpenVINO cannot load the file.
        ConfigError: If ``max_memory`` is not a number of 0 or more, or for an unknown runtime.
    """
    from qpass.backends.onnxruntime import verify
    from qpass.backends.parts import verify_parts

    storage = Storage(bytes_of(max_memory))
    if _has_parts(qmodel):
        call = model_inputs(inputs, qmodel).to("cpu")
        return verify_parts(on_cpu(qmodel), Path(path), call, strict=strict, storage=storage, runtime=runtime)
    graph = on_cpu(_quantized(qmodel, "verify_onnx"))
    return verify(graph, path, model_inputs(inputs, graph).to("cpu"), strict=strict, storage=storage, runtime=runtime)


@in_known_state
def onnxruntime_model(qmodel: nn.Module, path: str | Path, *, threads: int = 0) -> nn.Module:
    """Returns a model that is called like ``qmodel`` and computes with onnxruntime.

    Args:
        qmodel: Output of ``quantize_graph``. If it was quantized in parts, the rest stays in torch: a
            detector runs as before, with its transformer and heads in onnxruntime.
        path: File or folder that ``export_onnx`` wrote from it.
        threads: Intra-op threads; 0 uses onnxruntime's default, one per core.

    Raises:
        LoweringError: If onnxruntime cannot load a file.
        VerifyError: If a file is missing, or does not belong to this model.
    """
    from qpass.backends.parts import run_parts

    return run_parts(qmodel if _has_parts(qmodel) else _quantized(qmodel, "onnxruntime_model"), Path(path), threads=threads)


@in_known_state
def benchmark_latency(
    path_or_model: str | Path | fx.GraphModule,
    *,
    baseline: str | Path | nn.Module,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    runs: int = 30,
    progress: bool = True,
) -> LatencyReport:
    """Times a quantized file against a float one in onnxruntime, in alternation.

    Args:
        path_or_model: An ONNX file, or a quantized graph, which is exported to a temporary file.
        baseline: A float ONNX file, or a float model, which is exported to a temporary file with the
            quantized graph's inputs (``path_or_model`` must then be a graph).
        batches: Batch sizes.
        threads: Thread counts.
        runs: Timed rounds per setting.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The report: medians and spreads, the ratio to the baseline, integer operators that Q/DQ pairs
        fused into, and warnings where the quantized file is slower.

    Raises:
        ConfigError: If a float model is compared with a file, or counts are not positive.
        LoweringError: If a file cannot be written or loaded.
    """
    from qpass.backends.benchmark import benchmark_pair

    return benchmark_pair(path_or_model, baseline, batches=batches, threads=threads, runs=runs, show_progress=progress)


@in_known_state
def evaluate(
    network: nn.Module | str | Path | Callable[..., Any], batches: Iterable[Any], *, metric: str | SampleMetric = "top1"
) -> SampleScores:
    """Scores a network on labelled batches, of which one at a time is held.

    Args:
        network: A float model or a quantized graph, evaluated in eval mode and left unchanged; the path
            of an ONNX file, which runs in onnxruntime; or a function of the inputs. Graphs and files
            with a fixed batch get batches of that size, the last one padded.
        batches: (inputs, targets) pairs. Inputs are as for ``quantize_graph``. Targets of ``"top1"``
            are labels: (batch,) int64.
        metric: ``"top1"``: 1 for each sample whose highest score is its label's, and 0 for others; of
            several outputs, the scores are the one called ``logits`` or the only one of 2 dims. Or a
            function of (outputs, targets) that returns a score for each sample: (batch,).

    Returns:
        The scores: ``mean``, ``standard_error``, ``values``, and ``drop_from(other)`` for the paired
        drop from another network on the same samples.

    Raises:
        DataError: If there are no batches, a batch has no targets, or labels and outputs do not match.
        ConfigError: If the metric is unknown, or does not return a finite score for each sample.
        LoweringError: If onnxruntime cannot load or run a file.
    """
    from qpass.evaluation.scores import score

    return score(network, batches, metric)


def images(source: Any, preprocessing: Any, *, count: int | None = 128, batch_size: int = 16, seed: int = 0) -> ImageLoader:
    """Returns calibration batches of images for ``quantize_graph``.

    Args:
        source: The path of a folder, an ImageFolder, a zip or a folder that ``Dataset.save_to_disk`` of
            datasets wrote; a ``datasets.Dataset``; or any iterable of PIL images, of pairs that begin
            with one, or of mappings that hold one.
        preprocessing: An ``ImageTransform``; a timm model, for its own; an image processor of
            transformers, which yields mappings with ``pixel_values``; or a function of a PIL image
            that returns a tensor, such as a transform of torchvision.
        count: How many images to draw at random, spread over classes where they are known; None takes
            all. Of an iterable without a length, the first ones are taken.
        batch_size: Images in a batch.
        seed: Seed of the draw.

    Returns:
        The batches, in an object that may be iterated again.

    Raises:
        DataError: If there is no image, or one cannot be read.
        ConfigError: If a model does not say how its images are preprocessed, or for an invalid count.
    """
    from qpass.data.image_loader import load_images
    from qpass.zoo.timm_models import default_transform, knows_its_preprocessing

    if isinstance(preprocessing, nn.Module) and knows_its_preprocessing(preprocessing):
        preprocessing = default_transform(preprocessing)
    elif isinstance(preprocessing, nn.Module) and next(preprocessing.parameters(), None) is not None:  # no transform has any
        raise ConfigError(
            f"{type(preprocessing).__name__} does not say how its images are preprocessed",
            where="images, preprocessing",
            expected="a model with timm's pretrained_cfg",
            hint="pass a qpass.data.ImageTransform or the model's image processor",
        )
    return load_images(source, preprocessing, count=count, batch_size=batch_size, seed=seed)


def quantization_report(qmodel: fx.GraphModule) -> QuantReport:
    """Returns the report on each tensor, layer and block; it has ``to_json()`` and ``to_html()``."""
    return facts_of(_quantized(qmodel, "quantization_report")).report  # type: ignore[no-any-return]


@in_known_state
def sensitivity_report(
    model: nn.Module,
    calib_loader: Iterable[Batch],
    config: QuantConfig | Mapping[str, Any] | str | Path = "w8a8",
    *,
    example_inputs: Batch | None = None,
    transform_fn: Callable[[Any], Batch] | None = None,
    exclude: Sequence[str] = (),
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    max_memory: float = DEFAULT_GIB,
    progress: bool = True,
) -> SensitivityReport:
    """Estimates what each tensor that a recipe quantizes costs the network's output, without quantizing.

    Each tensor is rounded alone, all others stay float. The error of the output is estimated to first
    order, for all tensors together by one forward and one backward pass over 64 samples, and given as
    a share of the squared output. Weights are rounded to the nearest level: error feedback, learning
    and limits of a ``budget`` come later in a run, so errors are those before them.

    Args:
        model: As for ``quantize_graph``, as are all other arguments.
        calib_loader: Batches of calibration data.
        config: The recipe.
        example_inputs: A batch to trace the model with.
        transform_fn: Converts what the loader yields to a batch.
        exclude: Globs on module paths of layers that stay float.
        dynamic_shapes: The dynamic dims of the inputs.
        device: Where to measure; None uses the model's device.
        seed: Random seed.
        max_memory: GiB of memory for what is kept of calibration data.
        progress: Whether to show progress bars on standard error.

    Returns:
        The report: ``print`` it, or read ``tensors``, ``rules()``, ``to_json()`` and ``to_svg()``.

    Raises:
        ConfigError, CalibrationError, TraceError, SourceError, UnsupportedError: As ``quantize_graph``.
    """
    request = Request(
        config=QuantConfig.from_any(config).excluding(exclude),
        example_inputs=example_inputs,
        transform_fn=transform_fn,
        dynamic_shapes=dynamic_shapes,
        device=device,
        seed=seed,
        max_memory=max_memory,
        progress=progress,
    )
    return SensitivityReport.of(request.measure(request.read(model, calib_loader)), type(model).__name__, request.config)


@in_known_state
def save(qmodel: fx.GraphModule, path: str | Path) -> Path:
    """Writes a quantized graph to one safetensors file (no pickle, no code), atomically.

    The file is read back and compared before it is put in place: tensors to the bit, the graph and its
    facts as text.

    Raises:
        DataError: If the path cannot be written, or the graph contains what files do not support:
            functions other than torch's operators and Python's arithmetic, or outputs of classes
            that do not name their fields.
    """
    return save_graph(on_cpu(_quantized(qmodel, "save")), Path(path))


@in_known_state
def load(path: str | Path) -> fx.GraphModule:
    """Reads what ``save`` wrote. Nothing in the file is executed.

    The loaded graph computes what the saved one computed. Lists, tuples, dicts and named tuples are
    rebuilt. A file must not name classes to import, so dataclasses and outputs of transformers become
    ``qpass.graph.signature.named_outputs.NamedOutputs``, whose fields are read in the same way:
    ``out.logits``, ``out["logits"]``, ``out[0]``.

    Raises:
        DataError: If the file is missing, damaged, or of another version.
    """
    return load_graph(Path(path))


def _check_class_names(class_names: Sequence[str], preprocessing: ImageTransform | None, where: str) -> None:
    if preprocessing is None and len(class_names):
        raise ConfigError("given without preprocessing", where=f"{where}, class_names", expected="both, or neither")


def _has_parts(qmodel: nn.Module) -> bool:
    """Returns whether a model was quantized in parts.

    Raises:
        QPassError: If it contains the graph of a whole model instead: the file would leave out
            everything around that graph.
    """
    if not isinstance(qmodel, nn.Module) or isinstance(qmodel, fx.GraphModule):
        return False
    parts = parts_of(qmodel)
    for name, part in parts.items():
        if not facts_of(part).is_part:
            raise QPassError(
                f"got a {type(qmodel).__name__} around a quantized graph",
                where=name,
                expected="the graph that quantize_graph or load returned",
                hint=f"pass get_submodule({name!r}): what is around it stays in torch; or quantize the whole, or"
                f" quantize_graph(model, ..., submodules=[{name!r}])",
            )
    return bool(parts)


def _quantized(qmodel: nn.Module, where: str) -> fx.GraphModule:
    if not isinstance(qmodel, fx.GraphModule) or facts_of(qmodel).stage != "frozen":
        hint = f"call it for each part: get_submodule({next(iter(parts_of(qmodel)))!r}), ..." if _has_parts(qmodel) else ""
        expected = "what quantize_graph or load returned"
        raise QPassError(f"got a {type(qmodel).__name__}", where=where, expected=expected, hint=hint)
    return qmodel
