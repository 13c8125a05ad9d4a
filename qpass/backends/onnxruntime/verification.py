"""Proves that a file matches its graph: by layer, by output, and as a whole against float64."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.forced import COMPUTED, CodesOfFile
from qpass.backends.onnxruntime.forced_run import ForcedRun
from qpass.backends.onnxruntime.layer_check import TIE_TOLERANCE, LayerCheck, check_layers, distances
from qpass.backends.onnxruntime.layer_output_check import LayerOutputCheck, LayerOutputs
from qpass.backends.onnxruntime.output_check import ERROR_RATIO, OutputCheck, check_freely, check_output, joined, whole_run
from qpass.backends.onnxruntime.random_run import RandomRun
from qpass.backends.onnxruntime.rounding_node import EXPECTED_FILE
from qpass.backends.onnxruntime.session import OVERFLOW, OrtSession
from qpass.backends.onnxruntime.suspects import suspects
from qpass.backends.onnxruntime.torch_run import TorchRun, leaves, widened
from qpass.backends.onnxruntime.uncertainty import OwnError
from qpass.backends.onnxruntime.verify_report import RuntimeCheck, VerifyReport
from qpass.backends.openvino.session import OpenVinoSession
from qpass.data import ModelInputs
from qpass.errors import ConfigError, LoweringError, VerifyError, nearest
from qpass.graph.edit import dtype_of, flat_inputs, input_name
from qpass.graph.facts import facts_of
from qpass.graph.signature.input_check import named_inputs
from qpass.runtime.storage import Storage

_LOG = logging.getLogger(__name__)
#: Runtimes that files are verified in; onnxruntime always is one of them.
ONNXRUNTIME, OPENVINO = RUNTIMES = ("onnxruntime", "openvino")


def verify(
    graph_module: fx.GraphModule,
    path: str | Path,
    inputs: ModelInputs,
    *,
    strict: bool = True,
    storage: Storage | None = None,
    runtime: str = ONNXRUNTIME,
) -> VerifyReport:
    """Compares a file with its graph; see ``qpass.verify_onnx``.

    Raises:
        ConfigError: For an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(
            f"no runtime is called {runtime!r}",
            where="verify_onnx",
            expected=" or ".join(RUNTIMES),
            hint=nearest(runtime, RUNTIMES),
        )
    report = Verification(graph_module, inputs, storage).of(path, strict=strict, runtime=runtime)
    _LOG.info("%s: %s", path, report.headline)
    return report


def _refuse_inputs(graph_module: fx.GraphModule, inputs: ModelInputs) -> None:
    """Rejects inputs that verify nothing: without rows, or of another float dtype than the graph's.

    Raises:
        VerifyError: If an input is rejected; the message names it.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    given = [pair for pair in zip(nodes, flat_inputs(graph_module, *inputs), strict=True) if isinstance(pair[1], Tensor)]
    name = lambda node: f"verify_onnx, input {input_name(node)!r}"  # noqa: E731
    if given and not any(tensor.numel() for _, tensor in given):
        raise VerifyError("has no row", where=name(given[0][0]), expected="at least one", hint="pass a few samples")
    for node, value in given:
        expected = dtype_of(node)
        if value.is_floating_point() and expected is not None and expected.is_floating_point and value.dtype != expected:
            kind, wanted = (str(dtype).removeprefix("torch.") for dtype in (value.dtype, expected))
            raise VerifyError(f"is {kind}", where=name(node), expected=wanted, hint=f"pass x.to(torch.{wanted})")


class Verification:
    """Torch's results for one call of a graph, computed once for all files compared with it.

    Args:
        graph_module: A quantized graph.
        inputs: Inputs of one call.
        storage: Keeps the inputs of quantizers; None keeps them in memory.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: ModelInputs, storage: Storage | None = None) -> None:
        _refuse_inputs(graph_module, inputs)
        self._graph_module, self._inputs, self._fed = graph_module, inputs, named_inputs(graph_module, inputs)
        wide = widened(graph_module)
        self._reference = TorchRun(graph_module, inputs, wide=wide, storage=storage)
        self._random = RandomRun(graph_module, inputs, wide, storage)
        self._layers = LayerOutputs(wide)
        self._own = OwnError(graph_module, inputs, self._reference.outputs, tie=TIE_TOLERANCE, wide=wide)

    def of(self, path: str | Path, *, strict: bool = True, runtime: str = ONNXRUNTIME) -> VerifyReport:
        """Compares a file; see ``qpass.verify_onnx``."""
        codes = CodesOfFile(path, self._reference.quantizers, self._reference.codes)
        comparison = _Comparison(
            self._graph_module, path, self._fed, self._reference, self._random, self._own, codes, self._layers
        )
        try:
            checks = [comparison.check(optimized=optimized) for optimized in (False, True)]
            if runtime == OPENVINO:
                checks.append(comparison.check_in_openvino())
        except LoweringError as error:
            raise VerifyError(error.what, where=str(path), expected=EXPECTED_FILE) from error
        samples = next((len(leaf) for leaf in leaves(self._inputs) if leaf.ndim), 1)
        source = facts_of(self._graph_module).source_check
        report = VerifyReport(
            str(path),
            samples,
            tuple(checks),
            source_checks=() if source is None else (str(source),),
            source_informative=source is None or source.informative,
            left_out=self._left_out(codes),
        )
        if strict and not report.passed:
            failures = "; ".join(failure for check in checks for failure in check.failures[:3])
            raise VerifyError(failures, where=str(path), hint=OVERFLOW if OrtSession(path).overflows else "")
        return report

    def _left_out(self, codes: CodesOfFile) -> tuple[str, ...]:
        compared, unnamed = facts_of(self._graph_module).source_check is not None, self._layers.missing(codes)
        return (
            *([] if compared else ["the graph was not compared with the caller's model"]),
            *([f"layers whose outputs the file does not name: {', '.join(unnamed)}"] if unnamed else []),
            *filter(None, [self._random.left_out]),
        )


@dataclass(frozen=True)
class _Comparison:
    """What each way of running a file is compared with."""

    graph_module: fx.GraphModule
    path: str | Path
    inputs: ModelInputs
    reference: TorchRun
    random: RandomRun
    own: OwnError
    codes: CodesOfFile
    layer_outputs: LayerOutputs

    def check(self, *, optimized: bool) -> RuntimeCheck:
        """Checks the file with or without onnxruntime's optimisations."""
        free = OrtSession(self.path, optimized=optimized, arena=False)
        names = self._output_names(free)
        layers, outputs = self._forced(names, optimized)
        flipped, results = self._flipped(optimized)
        if optimized:  # fused as shipped only without its codes among the outputs
            results = free.run(free.feed(self.inputs))
        return RuntimeCheck(
            name="as shipped" if optimized else "as written",
            layers=tuple(layers),
            flipped_share=flipped,
            layer_outputs=() if optimized else tuple(self._layer_outputs()),
            **self._free_run(outputs, results),
        )

    def check_in_openvino(self) -> RuntimeCheck:
        """Checks the outputs of a free run in OpenVINO; it has no way to be fed codes."""
        session = OpenVinoSession(self.path)
        names = self._output_names(session)
        results = session.run({name: value.numpy() for name, value in self.inputs.kwargs.items() if isinstance(value, Tensor)})
        pairs = zip(names, self.reference.outputs, strict=True)
        unchecked = [OutputCheck(name, output.size, 0, 0, 0.0) for name, output in pairs]
        return RuntimeCheck(name="in OpenVINO", layers=(), flipped_share=None, **self._free_run(unchecked, results))

    def _layer_outputs(self) -> list[LayerOutputCheck]:
        """Compares every layer's output, for torch's codes and for random ones."""
        runs = [(self.reference, self.inputs)]
        if self.random.run is not None:
            runs.append((self.random.run, self.random.inputs))
        return self.layer_outputs.check(self.codes, runs)

    def _free_run(self, outputs: Sequence[OutputCheck], results: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns the fields of a ``RuntimeCheck`` that a free run determines."""
        found = [results[output.name] for output in outputs]
        checks, decibels, ratio = self._freely(outputs, found)
        if ratio > ERROR_RATIO or any(check.misplaced for check in checks):
            self.own.look_closer()
            checks, decibels, ratio = self._freely(outputs, found)
        top1 = _top1(found[0], self.reference.outputs[0]) if found else None
        return {"outputs": tuple(checks), "sqnr_db": decibels, "error_ratio": ratio, "top1_agreement": top1}

    def _freely(self, outputs: Sequence[OutputCheck], found: Sequence[np.ndarray]) -> tuple[list[OutputCheck], float, float]:
        """Adds the free run to the checks of outputs; also returns the results of ``whole_run``."""
        expected, own = self.reference.outputs, self.own.outputs
        checks = [check_freely(*each) for each in zip(outputs, found, expected, own, strict=True)]
        return checks, *whole_run(found, expected, own)

    def _output_names(self, session: OrtSession | OpenVinoSession) -> list[str]:
        if len(session.output_names) != len(self.reference.outputs):
            raise VerifyError(
                f"the file has the {len(session.output_names)} outputs {session.output_names}",
                where=str(self.path),
                expected=f"the {len(self.reference.outputs)} of the graph",
            )
        return session.output_names

    def _forced(self, names: Sequence[str], optimized: bool) -> tuple[list[LayerCheck], list[OutputCheck]]:
        """Compares layers and outputs, with every layer fed torch's codes.

        The values before rounding are compared only in the file as written: outputting them would
        change how the file is optimised. Random codes are tested there, too.
        """
        session = OrtSession(
            self.codes.forced(values=not optimized),
            folder=self.codes.folder,
            optimized=optimized,
            keep_graph=True,
            arena=False,
        )
        run = ForcedRun(self.codes, session, self.inputs, self.reference.codes, names, values=not optimized)
        layers = check_layers(
            self.reference,
            run.codes,
            lambda name: _producer(session, name + CODES + COMPUTED),
            values=None if optimized else run.value,
            constants=self.codes.wrong_constants(),
        )
        outputs = [check_output(name, run.outputs[name], self.reference, index) for index, name in enumerate(names)]
        del run
        if not optimized and self.random.run is not None:
            layers, outputs = self._with_random_codes(session, self.random.run, layers, outputs)
        return self._with_suspects(layers, outputs)

    def _with_random_codes(
        self, session: OrtSession, random: TorchRun, layers: Sequence[LayerCheck], outputs: Sequence[OutputCheck]
    ) -> tuple[tuple[LayerCheck, ...], list[OutputCheck]]:
        """Adds the results for random codes, which test every weight."""
        run = ForcedRun(self.codes, session, self.random.inputs, random.codes, [each.name for each in outputs], values=True)
        off = distances(random, run.value)
        others = [check_output(output.name, run.outputs[output.name], random, index) for index, output in enumerate(outputs)]
        return (
            tuple(replace(layer, off=max(layer.off, off[layer.quantizer])) for layer in layers),
            [joined(output, other) for output, other in zip(outputs, others, strict=True)],
        )

    def _with_suspects(
        self, layers: Sequence[LayerCheck], outputs: Sequence[OutputCheck]
    ) -> tuple[list[LayerCheck], list[OutputCheck]]:
        """Names the layers that may have caused the errors."""
        wrong = [layer.quantizer for layer in layers if not layer.codes_agree or layer.off > 1]
        ends: list[str | int] = [*wrong, *(i for i, output in enumerate(outputs) if output.wrong)]
        if not ends:
            return list(layers), list(outputs)
        right = [layer.quantizer for layer in layers if layer.quantizer not in wrong]
        found = suspects(self.graph_module, ends, [*right, *(i for i, output in enumerate(outputs) if not output.wrong)])
        return (
            [replace(layer, suspects=found.get(layer.quantizer, ())) for layer in layers],
            [replace(output, suspects=found.get(i, ())) for i, output in enumerate(outputs)],
        )

    def _flipped(self, optimized: bool) -> tuple[float, dict[str, np.ndarray]]:
        """Runs the file freely with its codes as outputs.

        Returns the share of codes that differ from torch's, and all outputs.
        """
        session = OrtSession(self.codes.exposed(), folder=self.codes.folder, optimized=optimized, arena=False)
        results = session.run(session.feed(self.inputs))
        different = sum(
            _different(self.codes.read(name, results[name + CODES]), expected)
            for name, expected in self.reference.codes.items()
        )
        total = sum(codes.numel() for codes in self.reference.codes.values())
        return different / total if total else 0.0, results


def _different(codes: Tensor, expected: Tensor) -> int:
    """Returns how many codes differ: all of them for another shape."""
    return int((codes != expected).sum()) if codes.shape == expected.shape else expected.numel()


def _producer(session: OrtSession, name: str) -> str:
    """Names the operator behind a quantizer's input, skipping the ones that only move or scale."""
    assert session.optimized_graph is not None
    producers = {output: node for node in session.optimized_graph.node for output in node.output}
    passing = {"QuantizeLinear", "Clip", "Reshape", "Transpose", "Cast", "Mul", "Add", "Squeeze", "Split", "Slice", "Gather"}
    node = producers.get(name)
    while node is not None and node.op_type in passing:
        node = next((producers[i] for i in node.input if i in producers), None)
    return f"{node.op_type} ({node.name})" if node is not None else "an input"


def _top1(a: np.ndarray, b: np.ndarray) -> float | None:
    return float((a.argmax(1) == b.argmax(1)).mean()) if a.ndim == 2 and a.shape == b.shape and a.size else None
