"""Run time of a file by operator, and the reasons why Q/DQ pairs did not fuse."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from qpass.backends.onnxruntime.arithmetic import integer_peak
from qpass.backends.onnxruntime.operators import FLOAT_PRODUCTS, kind_of
from qpass.backends.onnxruntime.profiling import NodeCost, Profile, integer_arithmetic, integer_multiply_adds, profile_file
from qpass.errors import ConfigError
from qpass.runtime.notebook import ShownAsText

#: Number of slowest nodes to list.
_LISTED = 10


@dataclass(frozen=True)
class OperatorCost:
    """Cost of all nodes of one operator type.

    Attributes:
        operator: Operator type in the optimised graph.
        kind: ``"integer product"``, ``"float product"``, ``"conversion"``, ``"movement"`` or
            ``"float"``.
        count: Number of nodes.
        milliseconds: Total time in one run, from each node's median over runs.
        share: Share of the time of all operators.
        multiply_adds: Multiply-adds in one run; 0 if the operator multiplies no matrices.
    """

    operator: str
    kind: str
    count: int
    milliseconds: float
    share: float
    multiply_adds: int


@dataclass(frozen=True)
class Unfused:
    """A DequantizeLinear that onnxruntime left in the graph.

    Attributes:
        name: Name of the node.
        reason: Which operator reads its output in float, and why.
        milliseconds: Time of the node and its reader in one run.
    """

    name: str
    reason: str
    milliseconds: float


@dataclass(frozen=True)
class Explanation(ShownAsText):
    """Result of ``explain``, each list sorted by cost. ``print`` it, or read its fields.

    Attributes:
        path: The file.
        batch: Batch size.
        threads: Intra-op threads.
        milliseconds: Time of all operators in one run.
        integer_peak: Operations per second of one large uint8 x int8 product on this machine, with
            the same number of threads; a multiply-add counts as two.
        operators: Time by operator.
        slowest: The slowest nodes.
        unfused: The Q/DQ pairs that did not fuse.
    """

    path: str
    batch: int
    threads: int
    milliseconds: float
    integer_peak: float
    operators: tuple[OperatorCost, ...]
    slowest: tuple[NodeCost, ...]
    unfused: tuple[Unfused, ...]

    def share_of(self, kind: str) -> float:
        """Returns the share of the time that operators of one kind take."""
        return sum(cost.share for cost in self.operators if cost.kind == kind)

    @property
    def integer_arithmetic(self) -> float:
        """Share of all multiply-adds that are done on integers."""
        return integer_arithmetic(self.operators)

    def share_of_peak(self, milliseconds: float | None = None) -> float:
        """Returns the integer operations per second as a share of ``integer_peak``.

        ``milliseconds`` is the time to divide by; None takes that of the integer products alone.
        """
        if milliseconds is None:
            milliseconds = self.share_of("integer product") * self.milliseconds
        return 2 * integer_multiply_adds(self.operators) / (milliseconds * 1e-3) / self.integer_peak if milliseconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.milliseconds:.2f} ms in operators, batch {self.batch}, {self.threads} thread(s); "
            f"integer products {self.share_of('integer product'):.0%}, float products {self.share_of('float product'):.0%}",
            f"{self.integer_arithmetic:.1%} of the multiply-adds are done on integers, at {self.share_of_peak():.0%} of "
            f"this machine's peak of {self.integer_peak / 1e9:.0f} GOP/s; over the whole run "
            f"{self.share_of_peak(self.milliseconds):.0%}",
            "",
            f"{'operator':<28} {'kind':<16} {'nodes':>5} {'ms':>8} {'share':>6}",
            *(f"{c.operator:<28} {c.kind:<16} {c.count:>5} {c.milliseconds:>8.3f} {c.share:>6.1%}" for c in self.operators),
            "",
            "Slowest nodes:",
            *(f"  {node.milliseconds:>8.3f} ms  {node.operator}  {node.name}" for node in self.slowest),
            "",
            *(["Every Q/DQ pair fused."] if not self.unfused else [f"{len(self.unfused)} DequantizeLinear did not fuse:"]),
            *(f"  {item.milliseconds:>8.3f} ms  {item.name}: {item.reason}" for item in self.unfused),
        ]
        return "\n".join(lines)


def explain(path: str | Path, *, batch: int = 1, threads: int = 1, runs: int = 20) -> Explanation:
    """Profiles a file with onnxruntime's defaults and explains where its time goes.

    Args:
        path: The file.
        batch: Batch size, if the file's batch is dynamic.
        threads: Intra-op threads.
        runs: Profiled runs, after one warm-up run.

    Raises:
        ConfigError: If a count is not positive.
        LoweringError: If onnxruntime cannot load the file.
    """
    if min(batch, threads, runs) < 1:
        raise ConfigError(f"batch={batch}, threads={threads}, runs={runs}", where="explain", expected="numbers above 0")
    profile = profile_file(path, batch=batch, threads=threads, runs=runs)
    total = sum(node.milliseconds for node in profile.nodes)
    by_operator: dict[str, list[NodeCost]] = collections.defaultdict(list)
    for node in profile.nodes:
        by_operator[node.operator].append(node)
    costs = []
    for operator, nodes in by_operator.items():
        spent, counted = sum(node.milliseconds for node in nodes), sum(node.multiply_adds for node in nodes)
        costs.append(OperatorCost(operator, kind_of(operator), len(nodes), spent, spent / total, counted))
    return Explanation(
        str(path),
        batch,
        threads,
        total,
        integer_peak(threads),
        tuple(sorted(costs, key=lambda cost: -cost.milliseconds)),
        tuple(sorted(profile.nodes, key=lambda node: -node.milliseconds)[:_LISTED]),
        tuple(sorted(_unfused(profile), key=lambda item: -item.milliseconds)),
    )


def _unfused(profile: Profile) -> list[Unfused]:
    graph, times = profile.graph, {node.name: node.milliseconds for node in profile.nodes}
    producers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in profile.unfused:
        readers = [reader for reader in graph.node if node.output[0] in reader.input]
        reader = max(readers, key=lambda r: times.get(r.name, 0.0), default=None)
        cost = times.get(node.name, 0.0) + (0.0 if reader is None else times.get(reader.name, 0.0))
        found.append(Unfused(node.name or node.output[0], _reason(node, reader, producers), cost))
    return found


def _reason(node: onnx.NodeProto, reader: onnx.NodeProto | None, producers: Mapping[str, onnx.NodeProto]) -> str:
    if reader is None:
        return "it is an output of the network"
    where = f"{reader.op_type} {reader.name}".strip()
    if reader.op_type not in FLOAT_PRODUCTS:
        return f"{where} has no integer kernel"
    for other in reader.input[:2]:
        source = producers.get(other)
        if other != node.output[0] and (source is None or source.op_type != "DequantizeLinear"):
            giver = "a constant" if source is None else f"{source.op_type} {source.name}".strip()
            return f"{where} stays float: its other factor is float, from {giver}"
    return f"{where} stays float though both factors are dequantized: onnxruntime fuses no product of this form"
