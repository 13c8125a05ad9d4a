"""Where the time of a file goes, operator by operator, and why what did not fuse did not."""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from qpass.backends.onnxruntime.latency import FLOAT_PRODUCTS, INTEGER_OPERATORS
from qpass.backends.onnxruntime.session import OrtSession
from qpass.errors import ConfigError

#: Operators that turn floats into codes or back.
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
_MOVEMENTS = ("Transpose", "Reshape", "Split", "Concat", "Slice", "Gather", "Squeeze", "Unsqueeze", "Expand", "Pad", "Shape")
#: Slow nodes that are listed one by one.
_LISTED = 10


@dataclass(frozen=True)
class OperatorCost:
    """All nodes of one operator.

    Attributes:
        operator: Type of the operator in the optimised graph.
        kind: ``"integer product"``, ``"float product"``, ``"conversion"``, ``"movement"`` or ``"float"``.
        count: How many nodes.
        milliseconds: Their time in one run, the mean over runs.
        share: Of the time of all operators.
    """

    operator: str
    kind: str
    count: int
    milliseconds: float
    share: float


@dataclass(frozen=True)
class NodeCost:
    """One node: name, operator and milliseconds in one run."""

    name: str
    operator: str
    milliseconds: float


@dataclass(frozen=True)
class Unfused:
    """A DequantizeLinear that onnxruntime left in the graph.

    Attributes:
        name: The node.
        reason: What reads its output in float, and why.
        milliseconds: Time of the node and its reader in one run.
    """

    name: str
    reason: str
    milliseconds: float


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found, each list in order of cost; ``print`` it, or read its fields."""

    path: str
    batch: int
    threads: int
    milliseconds: float
    operators: tuple[OperatorCost, ...]
    slowest: tuple[NodeCost, ...]
    unfused: tuple[Unfused, ...]

    def share_of(self, kind: str) -> float:
        """Returns the share of the time that operators of one kind take."""
        return sum(cost.share for cost in self.operators if cost.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.milliseconds:.2f} ms in operators, batch {self.batch}, {self.threads} thread(s); "
            f"integer products {self.share_of('integer product'):.0%}, float products {self.share_of('float product'):.0%}",
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
    """Profiles a file as onnxruntime ships and explains where its time goes.

    Args:
        path: The file.
        batch: Batch size, where the file takes any.
        threads: Threads inside an operator.
        runs: Profiled runs; one more before them is not counted.

    Raises:
        ConfigError: If a count is not positive.
        LoweringError: If onnxruntime cannot load the file.
    """
    if min(batch, threads, runs) < 1:
        raise ConfigError(f"batch={batch}, threads={threads}, runs={runs}", where="explain", expected="numbers above 0")
    with tempfile.TemporaryDirectory() as folder:
        session = OrtSession(path, threads=threads, keep_graph=True, profile_to=f"{folder}/profile")
        feed = session.random_feed(batch)
        for _ in range(runs + 1):
            session.run(feed)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    times, operators = _node_times(events, runs)
    total = sum(times.values())
    by_operator: dict[str, list[float]] = collections.defaultdict(list)
    for name, milliseconds in times.items():
        by_operator[operators[name]].append(milliseconds)
    costs = [OperatorCost(op, _kind(op), len(each), sum(each), sum(each) / total) for op, each in by_operator.items()]
    nodes = [NodeCost(name, operators[name], milliseconds) for name, milliseconds in times.items()]
    assert session.optimized_graph is not None
    return Explanation(
        str(path),
        batch,
        threads,
        total,
        tuple(sorted(costs, key=lambda cost: -cost.milliseconds)),
        tuple(sorted(nodes, key=lambda node: -node.milliseconds)[:_LISTED]),
        tuple(sorted(_unfused(session.optimized_graph, times), key=lambda item: -item.milliseconds)),
    )


def _node_times(events: list[dict[str, Any]], runs: int) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the mean milliseconds and the operator of each node; the first run is left out."""
    samples: dict[str, list[float]] = collections.defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            samples[name].append(event["dur"] / 1e3)
            operators[name] = event["args"]["op_name"]
    return {name: sum(each[-runs:]) / runs for name, each in samples.items()}, operators


def _kind(operator: str) -> str:
    if operator in INTEGER_OPERATORS:
        return "integer product"
    if operator in FLOAT_PRODUCTS:
        return "float product"
    if operator in _CONVERSIONS:
        return "conversion"
    return "movement" if operator in _MOVEMENTS else "float"


def _unfused(graph: onnx.GraphProto, times: Mapping[str, float]) -> list[Unfused]:
    producers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
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
