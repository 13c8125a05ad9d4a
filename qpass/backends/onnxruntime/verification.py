"""Proof that a file computes what its graph computes: layer by layer to the code, and as a whole against float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.forced import COMPUTED, expose_codes, force_codes
from qpass.backends.onnxruntime.session import OrtSession
from qpass.data import ModelInputs
from qpass.errors import VerifyError
from qpass.graph import flat_inputs
from qpass.quantizers import Quantizer

#: A code may differ where its input, moved by this share of the tensor's greatest magnitude, takes the other code too:
#: two float32 sums of a few hundred terms, taken in another order, differ by about so much.
TIE_TOLERANCE = 2e-6
#: Where cancellation makes float32 worse than that (a LayerNorm of nearly equal values), the input may move by this many
#: times the greatest error of torch's own float32 there, measured against float64 on the same codes.
FLOAT32_ERRORS = 2.0
#: Ties may make up this share of a tensor's codes: a count of rare events scatters, so it is held to three standard deviations
#: over its expectation (and one is always allowed). Ill-conditioned tensors may have FLOAT32_ERRORS times as many as those
#: in which torch in float32 differs from torch in float64.
TIE_SHARE = 1e-4
#: The whole network: error of onnxruntime against torch in float32, over what torch in float32 itself is uncertain by.
ERROR_RATIO = 1.5
#: Runs that measure that uncertainty: one in float64, the rest in float32 with the input of every quantizer moved at random
#: within TIE_TOLERANCE, so that ties fall either way. They cascade by chance: the greatest of several is taken.
UNCERTAINTY_RUNS = 4
#: Outputs that agree to so many dB are equal as far as float32 goes: a network without ties on its way is held to this.
FLOAT32_DB = 90.0


@dataclass(frozen=True)
class LayerCheck:
    """Codes of one quantizer, all layers before it fed with the reference's codes.

    Attributes:
        quantizer: Name of the quantizer in the graph.
        codes: How many were compared.
        ties: Codes that differ where the input lies on the edge of two codes.
        own_ties: Codes in which torch in float32 differs from torch in float64, on the same codes before.
        wrong: Codes that differ otherwise.
        caused_by: The operator that computed the quantizer's input, where codes differ.
    """

    quantizer: str
    codes: int
    ties: int
    own_ties: int
    wrong: int
    caused_by: str = ""

    @property
    def passed(self) -> bool:
        """No wrong code, and few ties."""
        expected = TIE_SHARE * self.codes
        return self.wrong == 0 and self.ties <= max(1, expected + 3 * math.sqrt(expected), FLOAT32_ERRORS * self.own_ties)


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
    reference = _Recorder(graph_module)
    with torch.no_grad():
        outputs = _leaves(reference.run(*flat_inputs(graph_module, *inputs)))
        exact = _ForcedDouble(graph_module, reference.codes)
        exact.run(*flat_inputs(exact.graph_module, *_double(inputs)))
        uncertainty = _uncertainty(graph_module, inputs, outputs)
    model = force_codes(path, reference.codes)
    checks = tuple(
        _check(path, model, reference, exact.inputs, inputs, outputs, uncertainty, optimized=optimized)
        for optimized in (False, True)
    )
    samples = next((len(leaf) for leaf in _leaves(inputs) if leaf.ndim), 1)
    report = VerifyReport(str(path), samples, checks)
    if strict and not report.passed:
        raise VerifyError("; ".join(failure for check in checks for failure in check.failures[:3]), where=str(path))
    return report


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the input and the codes of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.inputs: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}
        self.quantizers: dict[str, Quantizer] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if isinstance(module, Quantizer):
            self.inputs[str(target)], self.codes[str(target)] = args[0], module.encode(args[0])
            self.quantizers[str(target)] = module
        return super().call_module(target, args, kwargs)


def _check(
    path: str | Path,
    forced: Any,
    reference: _Recorder,
    exact: dict[str, Tensor],
    inputs: ModelInputs,
    outputs: list[np.ndarray],
    uncertainty: float,
    *,
    optimized: bool,
) -> RuntimeCheck:
    session = OrtSession(forced, optimized=optimized, keep_graph=True)
    codes = {name + CODES: tensor.numpy() for name, tensor in reference.codes.items()}
    computed = session.run({**session.feed(inputs), **codes})
    layers = []
    for name, quantizer in reference.quantizers.items():
        actual = torch.from_numpy(computed[name + CODES + COMPUTED])
        own_ties = int((quantizer.encode(exact[name]) != reference.codes[name]).sum())
        ties, wrong = _compare(quantizer, reference.inputs[name], exact[name], reference.codes[name], actual)
        cause = _producer(session, name + CODES + COMPUTED) if ties or wrong else ""
        layers.append(LayerCheck(name, reference.codes[name].numel(), ties, own_ties, wrong, cause))

    free = OrtSession(path, optimized=optimized)
    result = [free.run(free.feed(inputs))[name] for name in free.output_names]
    noise = _distance(result, outputs)
    signal = math.sqrt(sum(float(np.square(o, dtype=np.float64).sum()) for o in outputs))
    floor = max(uncertainty, signal * 10 ** (-FLOAT32_DB / 20))
    return RuntimeCheck(
        name="as shipped" if optimized else "as written",
        layers=tuple(layers),
        flipped_share=_flipped(path, reference, inputs, optimized),
        sqnr_db=20 * math.log10(signal / noise) if noise and signal else math.inf,
        error_ratio=noise / floor if floor else 0.0,
        top1_agreement=_top1(result[0], outputs[0]),
    )


def _compare(quantizer: Quantizer, x: Tensor, exact: Tensor, expected: Tensor, actual: Tensor) -> tuple[int, int]:
    """Returns how many codes differ on ties, and how many otherwise."""
    differs = actual != expected
    if not differs.any():
        return 0, 0
    # Quantizers are monotone: the codes within reach of a small move of x are those between the codes of its ends.
    reach = max(TIE_TOLERANCE * x.abs().amax(), FLOAT32_ERRORS * (x - exact).abs().amax().float())
    low, high = quantizer.encode(x - reach), quantizer.encode(x + reach)
    tied = differs & (low <= actual) & (actual <= high)
    return int(tied.sum()), int((differs & ~tied).sum())


def _flipped(path: str | Path, reference: _Recorder, inputs: ModelInputs, optimized: bool) -> float:
    """Runs the file freely with its codes as outputs and returns the share that differs from the reference's."""
    session = OrtSession(expose_codes(path, reference.codes), optimized=optimized)
    result = session.run(session.feed(inputs))
    different = sum(int((result[name + CODES] != codes.numpy()).sum()) for name, codes in reference.codes.items())
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


class _ForcedDouble(fx.Interpreter):
    """Runs a graph in float64 with the codes of the float32 run, and keeps the input of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule, codes: dict[str, Tensor]) -> None:
        self.graph_module = _in_float64(graph_module)
        super().__init__(self.graph_module)
        self._codes, self.inputs = codes, dict[str, Tensor]()

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if not isinstance(module, Quantizer):
            return super().call_module(target, args, kwargs)
        self.inputs[str(target)] = args[0]
        return module.decode(self._codes[str(target)])


def _uncertainty(graph_module: fx.GraphModule, inputs: ModelInputs, outputs: list[np.ndarray]) -> float:
    """Returns the greatest distance of torch's float32 outputs to float64, and to float32 with ties falling at random."""
    double = _double(inputs)
    exact = _leaves(_in_float64(graph_module)(*double.args, **double.kwargs))
    distances = [_distance(outputs, exact)]
    for seed in range(UNCERTAINTY_RUNS - 1):
        other = _RandomTies(graph_module, seed).run(*flat_inputs(graph_module, *inputs))
        distances.append(_distance(outputs, _leaves(other)))
    return max(distances)


def _in_float64(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy that computes in float64 throughout: what it casts to float32 it casts to float64."""
    double = copy.deepcopy(graph_module).double()
    widen = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
    for node in double.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, widen), map_aggregate(node.kwargs, widen)
    double.recompile()
    return double


class _RandomTies(fx.Interpreter):
    """Runs a graph with the input of every quantizer moved at random within ``TIE_TOLERANCE``."""

    def __init__(self, graph_module: fx.GraphModule, seed: int) -> None:
        super().__init__(graph_module)
        self._generator = torch.Generator().manual_seed(seed)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(self.fetch_attr(str(target)), Quantizer):
            (x,) = args
            noise = torch.rand(x.shape, generator=self._generator) * 2 - 1
            args = (x + noise * TIE_TOLERANCE * x.abs().amax(),)
        return super().call_module(target, args, kwargs)


def _double(inputs: ModelInputs) -> ModelInputs:
    return _map_floats(inputs, lambda t: t.double())


def _map_floats(inputs: ModelInputs, function: Callable[[Tensor], Tensor]) -> ModelInputs:
    apply = lambda leaf: function(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return ModelInputs(*pytree.tree_map(apply, tuple(inputs)))


def _leaves(tree: Any) -> list[np.ndarray]:
    return [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in zip(a, b, strict=True)))


def _top1(a: np.ndarray, b: np.ndarray) -> float | None:
    return float((a.argmax(1) == b.argmax(1)).mean()) if a.ndim == 2 else None
