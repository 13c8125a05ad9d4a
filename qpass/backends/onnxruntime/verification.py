"""Proof that a file computes what its graph computes: layer by layer to the code, and as a whole against float64."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.forced import COMPUTED, CodesOfFile
from qpass.backends.onnxruntime.layer_check import TIE_TOLERANCE, LayerCheck, check_layers
from qpass.backends.onnxruntime.session import OVERFLOW, OrtSession
from qpass.backends.onnxruntime.torch_run import TorchRun, distance, leaves, uncertainty
from qpass.data import ModelInputs
from qpass.errors import VerifyError

#: The whole network: error of onnxruntime against torch in float32, over what torch in float32 itself is uncertain by.
ERROR_RATIO = 1.5
#: Outputs that agree to so many dB are equal as far as float32 goes: a network without ties on its way is held to this.
FLOAT32_DB = 90.0


@dataclass(frozen=True)
class RuntimeCheck:
    """One way of running the file.

    Attributes:
        name: ``"as written"`` (optimisations off) or ``"as shipped"`` (onnxruntime's default).
        layers: The check of each quantizer.
        flipped_share: Share of codes that differ when the file runs freely, ties having cascaded.
        sqnr_db: Signal over error of the outputs against torch, in dB.
        error_ratio: Error against torch in float32, over the uncertainty of torch in float32: its greatest distance to
            itself in float64 and to itself with ties falling at random.
        top1_agreement: Share of samples with the same greatest output, or None where outputs are not (batch, classes).
    """

    name: str
    layers: tuple[LayerCheck, ...]
    flipped_share: float
    sqnr_db: float
    error_ratio: float
    top1_agreement: float | None

    @property
    def failures(self) -> list[str]:
        """What is out of bounds, in words."""
        found = [
            f"{self.name}: {layer.quantizer}: {layer.wrong} wrong codes and {layer.ties} ties of {layer.codes}"
            + (f", from {layer.caused_by}" if layer.caused_by else "")
            for layer in self.layers
            if not layer.passed
        ]
        if self.error_ratio > ERROR_RATIO:
            found.append(
                f"{self.name}: the outputs are {self.error_ratio:.2f} times as far from torch as torch is uncertain, "
                f"at most {ERROR_RATIO} expected"
            )
        return found


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify_onnx`` found; ``print`` it, or read its fields."""

    path: str
    samples: int
    checks: tuple[RuntimeCheck, ...] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether everything is within its bounds."""
        return not any(check.failures for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return {"passed": self.passed, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{'PASSED' if self.passed else 'FAILED'}: {self.path} against its graph, {self.samples} samples"]
        for check in self.checks:
            codes, ties = sum(layer.codes for layer in check.layers), sum(layer.ties for layer in check.layers)
            wrong = sum(layer.wrong for layer in check.layers)
            top1 = "" if check.top1_agreement is None else f", same top-1 {check.top1_agreement:.1%}"
            lines += [
                f"  {check.name}: {len(check.layers)} quantizers, {codes} codes, {ties} ties, {wrong} wrong (layer by layer)",
                f"    running freely: {check.flipped_share:.2%} of codes flipped, output {check.sqnr_db:.1f} dB, "
                f"error {check.error_ratio:.2f} x torch's own{top1}",
            ]
            lines += [f"    {failure}" for failure in check.failures]
        return "\n".join(lines)


def verify(graph_module: fx.GraphModule, path: str | Path, inputs: ModelInputs, *, strict: bool = True) -> VerifyReport:
    """Compares a file with its graph; see ``qpass.verify_onnx``."""
    reference = TorchRun(graph_module, inputs)
    spread = uncertainty(graph_module, inputs, reference.outputs, tie=TIE_TOLERANCE)
    codes = CodesOfFile(path, reference.codes)
    checks = tuple(_check(path, codes, reference, inputs, spread, optimized=optimized) for optimized in (False, True))
    samples = next((len(leaf) for leaf in leaves(inputs) if leaf.ndim), 1)
    report = VerifyReport(str(path), samples, checks)
    if strict and not report.passed:
        failures = "; ".join(failure for check in checks for failure in check.failures[:3])
        raise VerifyError(failures, where=str(path), hint=OVERFLOW if OrtSession(path).overflows else "")
    return report


def _check(
    path: str | Path, codes: CodesOfFile, reference: TorchRun, inputs: ModelInputs, spread: float, *, optimized: bool
) -> RuntimeCheck:
    session = OrtSession(codes.forced(), optimized=optimized, keep_graph=True)
    computed = codes.read(session.run({**session.feed(inputs), **codes.feed()}), COMPUTED)

    free = OrtSession(path, optimized=optimized)
    result = list(free.run(free.feed(inputs)).values())
    noise, signal = distance(result, reference.outputs), reference.size
    floor = max(spread, signal * 10 ** (-FLOAT32_DB / 20))
    return RuntimeCheck(
        name="as shipped" if optimized else "as written",
        layers=check_layers(reference, computed, lambda name: _producer(session, name + CODES + COMPUTED)),
        flipped_share=_flipped(codes, reference, inputs, optimized),
        sqnr_db=20 * math.log10(signal / noise) if noise and signal else math.inf,
        error_ratio=noise / floor if floor else 0.0,
        top1_agreement=_top1(result[0], reference.outputs[0]),
    )


def _flipped(codes: CodesOfFile, reference: TorchRun, inputs: ModelInputs, optimized: bool) -> float:
    """Runs the file freely with its codes as outputs and returns the share that differs from the reference's."""
    session = OrtSession(codes.exposed(), optimized=optimized)
    found = codes.read(session.run(session.feed(inputs)))
    different = sum(int((found[name] != expected).sum()) for name, expected in reference.codes.items())
    total = sum(codes.numel() for codes in reference.codes.values())
    return different / total if total else 0.0


def _producer(session: OrtSession, name: str) -> str:
    """Names the operator that computed a quantizer's input in the optimised graph, past the ones that only move or scale."""
    assert session.optimized_graph is not None
    producers = {output: node for node in session.optimized_graph.node for output in node.output}
    passing = {"QuantizeLinear", "Clip", "Reshape", "Transpose", "Cast", "Mul", "Add", "Squeeze", "Split", "Slice", "Gather"}
    node = producers.get(name)
    while node is not None and node.op_type in passing:
        node = next((producers[i] for i in node.input if i in producers), None)
    return f"{node.op_type} ({node.name})" if node is not None else "an input"


def _top1(a: np.ndarray, b: np.ndarray) -> float | None:
    return float((a.argmax(1) == b.argmax(1)).mean()) if a.ndim == 2 else None
