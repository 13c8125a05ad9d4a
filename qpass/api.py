"""The public functions. They check, compose what the layers below give, and hold no logic of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from qpass.compiler.request import Request
from qpass.config import QuantConfig
from qpass.data import Batch
from qpass.data.batches import model_inputs
from qpass.errors import QPassError
from qpass.graph.device import on_cpu
from qpass.graph.facts import facts_of
from qpass.graph.parts import parts_of
from qpass.report import QuantReport
from qpass.runtime.storage import DEFAULT_GIB, Storage, bytes_of
from qpass.runtime.torch_modes import in_known_state
from qpass.serialize import load_graph, save_graph

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import LatencyReport, VerifyReport


@in_known_state
def quantize_graph(
    model: nn.Module,
    calib_loader: Iterable[Batch],
    config: QuantConfig | Mapping[str, Any] | str | Path = "w8a8",
    *,
    example_inputs: Batch | None = None,
    transform_fn: Callable[[Any], Batch] | None = None,
    submodules: Sequence[str] | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    max_memory: float = DEFAULT_GIB,
    progress: bool = True,
) -> fx.GraphModule:
    """Quantizes a float model after training, from calibration data alone.

    The caller's modes do not matter, and are left as they are: grad and inference mode, autocast, default type and device, and
    torch's own random state. Threads that call functions of qpass at the same time take turns.

    Where torch.distributed is initialized, every process calls this with the same arguments and gets the same network; each
    does its share of the work (see docs/scaling.md).

    Args:
        model: Any model that torch.export captures. It is not changed, and the result shares nothing with it. One with weights
            of another float type than float32 is quantized from float32, with a warning.
        calib_loader: Yields batches: tensors (batch, ...), (inputs, target) pairs, or mappings of inputs by name. A list of
            batches works, and a single tensor is one batch. Small batches are merged and large ones split. 32 to 128
            samples are enough for recipes without learning; ``aiqvit`` recipes need about 1,000. All batches must have the
            same inputs. Values other than tensors must be equal in all batches: they become constants, and the graph rejects
            any other value. Keys that the model's forward does not accept, and labels that only its loss needs, are dropped.
            A warning reports both.
        config: A preset's name (``"w8a8"``, ``"w6a6"``, ``"w4a8"``, ``"w4a4"``, ``"w3a3"``, ``"repq-vit-w4a4"``,
            ``"aiqvit-w4a4"``, ...), a
            ``QuantConfig``, a mapping, or the path of a YAML file.
        example_inputs: A batch to trace the model with; None uses the first calibration batch.
        transform_fn: Turns what the loader yields into a batch.
        submodules: Names of submodules to quantize instead of the whole model, for models with data-dependent control flow.
            Each is traced with its real inputs and replaced in a copy of the model, which is returned. Sizes that vary between
            calls are dynamic where the submodule allows it. Otherwise its graph supports the most frequent sizes, and raises
            an error for others.
        dynamic_shapes: Which dims of the inputs are open, as ``torch.export.export`` takes it: by input name, for each open
            dim a name or a ``torch.export.Dim``, such as ``{"input_ids": {0: "texts", 1: "tokens"}}``. Dims with the same
            name are equal in every call. For inputs that are not named, and with None, dim 0 of each tensor is dynamic where
            the model allows it: tracing finds which of them must be equal, and the others may differ, such as the numbers of
            images and texts in CLIP. With ``submodules``, a mapping of their names to such mappings.
        device: Where to trace, calibrate and learn; None uses the model's own device. Batches are moved there. The result is on
            the model's own device in any case.
        seed: Seeds everything that is drawn, 0 to 2**32 - 1; the same gives the same bits on the same machine.
        checkpoint_dir: Where recipes that learn save each finished block. The same call with the same folder resumes after the
            last one and gives bit-identical results. A folder of another model, calibration data, config or seed is refused
            before any work is done, and so is one that another run writes to meanwhile. None saves nothing.
        max_memory: GiB of memory for what is kept of calibration data, such as batches and the values between layers; the
            rest goes to a temporary file (in ``TMPDIR``). The model, two copies of it, histograms, and what one batch needs
            come on top.
        progress: Show bars on standard error.

    Returns:
        A ``torch.fx.GraphModule`` that computes the quantized network with the model's inputs and outputs; with
        ``submodules``, a copy of the model that holds such graphs.

    Raises:
        ConfigError: For a config that cannot be carried out, ``dynamic_shapes`` that do not fit the inputs, or a device that is
            not there.
        CalibrationError: For calibration data that cannot be used.
        TraceError: For a model that cannot be captured, whose outputs depend on former calls, or that does not leave open what
            ``dynamic_shapes`` opens.
        SourceError: For a graph that does not compute what the model computes: it is compared after every pass that keeps the
            function, on calibration samples.
        UnsupportedError: For weights that are NaN or infinite, or have no values, and for models that are quantized already.
        DistributedError: For processes that were given different things, or when one of them ends.
    """
    request = Request(
        config=QuantConfig.from_any(config),
        example_inputs=example_inputs,
        transform_fn=transform_fn,
        submodules=submodules,
        dynamic_shapes=dynamic_shapes,
        device=device,
        seed=seed,
        checkpoint_dir=checkpoint_dir,
        max_memory=max_memory,
        progress=progress,
    )
    return request.carry_out(model, calib_loader)  # type: ignore[return-value]


@in_known_state
def export_onnx(
    qmodel: nn.Module,
    path: str | Path,
    *,
    opset: int | None = None,
    target: str = "onnxruntime",
    weight_type: str = "auto",
) -> Path:
    """Writes a quantized graph as an ONNX QDQ file, whole or not at all.

    Weights are stored as integers in as many bits as they have; the batch is dynamic where the graph's
    is; inputs keep their names, and outputs the keys of a dict output (``output`` for a single one).

    Args:
        qmodel: What ``quantize_graph`` returned.
        path: The file; its folder must exist. Past 2 GB the weights lie beside it in ``<name>.data``. For a model that was
            quantized in parts (``submodules``) it is a folder, with ``<path of the part>.onnx`` for each.
        opset: ONNX opset, 20 or later; None takes 21.
        target: The runtime that the file is shaped for: ``"onnxruntime"``, standard operators only; ``"onnxruntime-contrib"``,
            onnxruntime's own operators where they save work; ``"openvino"``, standard operators in the form that it
            fuses. Every one holds the same network, and onnxruntime runs every one.
        weight_type: Type of 8-bit weights and second factors of products: ``"int8"``, the fastest, is exact on ARM and on x86
            with AVX512-VNNI or AVX-VNNI; older x86 processors add pairs of products in 16 bits, which overflows.
            ``"uint8"`` is exact everywhere. ``"auto"`` tries on this machine: say ``"uint8"`` for files that also run on
            older ones. Fewer bits do not overflow and are int8 in any case.

    Returns:
        The path.

    Raises:
        LoweringError: If the path cannot be written, target or type are not known, onnxruntime does not load the opset, or a
            module has no lowering.
    """
    from qpass.backends.onnx_qdq import export_quantized
    from qpass.backends.parts import export_parts

    if _has_parts(qmodel):
        return export_parts(on_cpu(qmodel), Path(path), opset=opset, target=target, weight_type=weight_type)
    graph = on_cpu(_quantized(qmodel, "export_onnx"))
    return export_quantized(graph, path, opset=opset, target=target, weight_type=weight_type)


@in_known_state
def verify_onnx(
    qmodel: nn.Module, path: str | Path, inputs: Batch, *, strict: bool = True, max_memory: float = DEFAULT_GIB
) -> VerifyReport:
    """Proves that onnxruntime computes from the file what torch computes from the graph.

    Twice, with optimisations off and as shipped. First layer by layer, each fed with torch's codes: codes must be equal
    save for counted ties, and every output must be torch's within what float32 rounding explains. With optimisations off
    the values that are rounded to codes and the outputs of all quantized layers are compared too, and random codes try
    every weight. Then as a whole: outputs may differ from torch's by no more than torch in float32 differs from torch in
    float64 and from itself with ties falling otherwise (times 1.5). Ties cascade, and no fixed tolerance holds for every
    network. Where they move an output as far as its input does, the whole run proves nothing. The report's ``verdict`` says
    so, and likewise where the comparison with the caller's model proves nothing, or rounding decides what a layer gives.

    Args:
        qmodel: What ``quantize_graph`` returned.
        path: What ``export_onnx`` wrote from it.
        inputs: One batch; a handful of real samples is enough. Parts are verified on every form of call that the model makes.
        strict: Raise when a bound is passed; False returns the report all the same.
        max_memory: GiB of memory for what the layers are given; the rest lies in a temporary file.

    Returns:
        The report: ``print`` it; ``passed``, ``verdict``, ``checks`` and ``to_dict()`` for programs.

    Raises:
        VerifyError: If a bound is passed (``strict``), or the file is not this graph's.
        LoweringError: If onnxruntime cannot load the file.
        ConfigError: If ``max_memory`` is no number from 0.
    """
    from qpass.backends.onnxruntime import verify
    from qpass.backends.parts import verify_parts

    storage = Storage(bytes_of(max_memory))
    if _has_parts(qmodel):
        call = model_inputs(inputs, qmodel).to("cpu")
        return verify_parts(on_cpu(qmodel), Path(path), call, strict=strict, storage=storage)
    graph = on_cpu(_quantized(qmodel, "verify_onnx"))
    return verify(graph, path, model_inputs(inputs, graph).to("cpu"), strict=strict, storage=storage)


@in_known_state
def onnxruntime_model(qmodel: nn.Module, path: str | Path, *, threads: int = 0) -> nn.Module:
    """Returns a model that is called as ``qmodel`` is, and computes with onnxruntime.

    Args:
        qmodel: What ``quantize_graph`` returned. Of a model that was quantized in parts, the rest stays in torch: a detector
            runs as it did, with its transformer and heads in onnxruntime.
        path: What ``export_onnx`` wrote from it, a file or a folder.
        threads: Threads inside an operator; 0 takes onnxruntime's default, one for each core.

    Raises:
        LoweringError: If onnxruntime cannot load a file.
        VerifyError: If a file is missing, or not this model's.
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
        path_or_model: An ONNX file, or a quantized graph, which is exported to a temporary one.
        baseline: A float ONNX file, or a float model, which is exported to a temporary one with the quantized graph's
            inputs (``path_or_model`` must then be a graph).
        batches: Batch sizes.
        threads: Thread counts.
        runs: Timed rounds for each setting.
        progress: Show a bar on standard error.

    Returns:
        The report: medians and spreads, the ratio to the baseline, integer operators that Q/DQ pairs fused into, and
        warnings where the quantized file is slower.

    Raises:
        ConfigError: If a float model is given beside a file, or counts are not positive.
        LoweringError: If a file cannot be made or loaded.
    """
    from qpass.backends.benchmark import benchmark_pair

    return benchmark_pair(path_or_model, baseline, batches=batches, threads=threads, runs=runs, show_progress=progress)


def quantization_report(qmodel: fx.GraphModule) -> QuantReport:
    """Returns what happened to each tensor, layer and block: ``print`` it, or ``to_json()``, ``to_html()``."""
    return facts_of(_quantized(qmodel, "quantization_report")).report  # type: ignore[no-any-return]


@in_known_state
def save(qmodel: fx.GraphModule, path: str | Path) -> Path:
    """Writes a quantized graph to one safetensors file (no pickle, no code), whole or not at all.

    The file is read back and compared before it takes its place: tensors to the bit, the graph and its facts as text.

    Raises:
        DataError: If the path cannot be written, or the graph holds what no file can: functions that are neither torch's
            operators nor Python's arithmetic, outputs of classes whose fields have no names.
    """
    return save_graph(on_cpu(_quantized(qmodel, "save")), Path(path))


@in_known_state
def load(path: str | Path) -> fx.GraphModule:
    """Reads what ``save`` wrote. Nothing in the file is executed.

    The graph gives what the saved one gave. Lists, tuples, dicts and named tuples are rebuilt. A file must not name classes to
    import, so dataclasses and outputs of transformers come back as ``qpass.graph.signature.named_outputs.NamedOutputs``,
    whose fields are read alike: ``out.logits``, ``out["logits"]``, ``out[0]``.

    Raises:
        DataError: If the file is missing, damaged, or of another version.
    """
    return load_graph(Path(path))


def _has_parts(qmodel: nn.Module) -> bool:
    """Tells whether a model was quantized in parts.

    Raises:
        QPassError: If a graph of a whole model lies in it instead: what is around that graph would be left out of the file.
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
