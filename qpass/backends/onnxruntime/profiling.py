"""Profiles a file with onnxruntime's defaults: time and multiply-adds of each node as optimised."""

from __future__ import annotations

import collections
import json
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx

from qpass.backends.onnxruntime.arithmetic import multiply_adds
from qpass.backends.onnxruntime.operators import kind_of
from qpass.backends.onnxruntime.session import OrtSession


@dataclass(frozen=True)
class NodeCost:
    """Cost of one node.

    Attributes:
        name: Its name in the optimised graph.
        operator: Its type.
        milliseconds: Its time in one run; median over runs.
        multiply_adds: Multiply-adds in one run; 0 if it multiplies no matrices.
    """

    name: str
    operator: str
    milliseconds: float
    multiply_adds: int

    @property
    def kind(self) -> str:
        """Kind of operator; see ``kind_of``."""
        return kind_of(self.operator)


class Counted(Protocol):
    """Multiply-adds of one node, or of several of one kind."""

    @property
    def kind(self) -> str:
        """Kind of operator; see ``kind_of``."""

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds."""


def integer_multiply_adds(costs: Iterable[Counted]) -> int:
    """Returns the multiply-adds of integer products."""
    return sum(cost.multiply_adds for cost in costs if cost.kind == "integer product")


def integer_arithmetic(costs: Sequence[Counted]) -> float:
    """Returns the share of all multiply-adds that are done on integers; 0 if there are none."""
    total = sum(cost.multiply_adds for cost in costs)
    return integer_multiply_adds(costs) / total if total else 0.0


@dataclass(frozen=True)
class Profile:
    """The nodes of one file, and its optimised graph."""

    nodes: tuple[NodeCost, ...]
    graph: onnx.GraphProto

    @property
    def unfused(self) -> list[onnx.NodeProto]:
        """The remaining DequantizeLinear nodes, whose Q/DQ pairs did not fuse.

        Those that dequantize the sums of an integer product do not count.
        """
        sums = {output for node in self.graph.node if kind_of(node.op_type) == "integer product" for output in node.output}
        return [node for node in self.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in sums]


def profile_file(path: str | Path, *, batch: int = 1, threads: int = 1, runs: int = 1) -> Profile:
    """Runs a file with onnxruntime's profiler; for arguments and errors, see ``explain``."""
    with tempfile.TemporaryDirectory() as folder:
        session = OrtSession(path, threads=threads, keep_graph=True, profile_to=f"{folder}/profile")
        feed = session.random_feed(batch)
        for _ in range(runs + 1):
            session.run(feed)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    assert session.optimized_graph is not None
    weights = {constant.name: tuple(constant.dims) for constant in session.optimized_graph.initializer}
    nodes = {node.name: node for node in session.optimized_graph.node}
    samples: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            samples[event["name"].removesuffix("_kernel_time")].append(event)
    found = []
    for name, each in samples.items():
        operator, milliseconds = each[0]["args"]["op_name"], statistics.median(event["dur"] for event in each[-runs:]) / 1e3
        # The profiler makes up names for unnamed nodes; the graph does not have them.
        node = nodes.get(name, onnx.NodeProto(op_type=operator))
        found.append(NodeCost(name, operator, milliseconds, _multiply_adds(node, each[0]["args"], weights)))
    return Profile(tuple(found), session.optimized_graph)


def _multiply_adds(node: onnx.NodeProto, seen: dict[str, Any], weights: dict[str, tuple[int, ...]]) -> int:
    """Returns the multiply-adds for the profiled shapes, which lack constants prepacked by kernels."""
    first, output = _shape(seen["input_type_shape"]), _shape(seen["output_type_shape"])
    return multiply_adds(node, first, output, weights) if first and output else 0


def _shape(seen: list[dict[str, list[int]]]) -> list[int]:
    """Returns the shape of the first tensor: the profiler lists each as ``{type: shape}``."""
    return next(iter(seen[0].values())) if seen else []
