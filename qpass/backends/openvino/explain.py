"""Run time of a file in OpenVINO by operator, and the precision in which each product ran."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from qpass.backends.onnxruntime.operators import FLOAT_PRODUCTS, INTEGER_PRODUCTS
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.openvino.session import OpenVinoSession
from qpass.errors import ConfigError
from qpass.runtime.notebook import ShownAsText

#: Operators of files that multiply matrices.
_PRODUCTS = (*INTEGER_PRODUCTS, *FLOAT_PRODUCTS, "ConvTranspose")
#: Precisions of OpenVINO's integer kernels.
_INTEGER = ("u8", "i8", "u4", "i4")
#: Number of float products to list.
_LISTED = 10


@dataclass(frozen=True)
class ExecutedNode:
    """A node of OpenVINO's execution graph.

    Attributes:
        operator: Its kind, such as ``"FullyConnected"`` or ``"Subgraph"``.
        precision: In which it ran, such as ``"u8"`` or ``"f32"``.
        milliseconds: Mean time in one run.
        nodes: Names of the file's nodes that it computes.
    """

    operator: str
    precision: str
    milliseconds: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ExecutedProduct:
    """A product of the file, and how OpenVINO ran it.

    Attributes:
        name: Name of the node in the file.
        operator: Kind of the executed node that computes it, or that computes what reads it if none
            names the product: it is fused into that. "" if there is none.
        precision: In which it ran; "" likewise.
    """

    name: str
    operator: str
    precision: str

    @property
    def runs_on_integers(self) -> bool:
        """Whether it ran on integers."""
        return self.precision in _INTEGER


@dataclass(frozen=True)
class OpenVinoExplanation(ShownAsText):
    """Result of ``explain_in_openvino``. ``print`` it, or read its fields.

    Attributes:
        path: The file.
        batch: Batch size.
        threads: Threads.
        milliseconds: Time of all operators in one run.
        executed: The executed nodes, from the slowest.
        products: Every product of the file, in its order.
    """

    path: str
    batch: int
    threads: int
    milliseconds: float
    executed: tuple[ExecutedNode, ...]
    products: tuple[ExecutedProduct, ...]

    @property
    def float_products(self) -> tuple[ExecutedProduct, ...]:
        """The products that did not run on integers."""
        return tuple(product for product in self.products if not product.runs_on_integers)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        integer = len(self.products) - len(self.float_products)
        yield (
            f"{self.path} in OpenVINO: {self.milliseconds:.2f} ms in operators, batch {self.batch}, {self.threads} thread(s); "
            f"{integer} of {len(self.products)} products on integers"
        )
        yield ""
        yield f"{'operator':<32} {'precision':<10} {'nodes':>5} {'ms':>8} {'share':>6}"
        groups = collections.defaultdict(list)
        for node in self.executed:
            groups[node.operator, node.precision].append(node.milliseconds)
        for (operator, precision), times in sorted(groups.items(), key=lambda item: -sum(item[1])):
            share = sum(times) / self.milliseconds if self.milliseconds else 0.0
            yield f"{operator:<32} {precision:<10} {len(times):>5} {sum(times):>8.3f} {share:>6.1%}"
        yield ""
        if not self.float_products:
            yield "Every product ran on integers."
            return
        yield f"{len(self.float_products)} products did not run on integers:"
        for product in self.float_products[:_LISTED]:
            yield f"  {product.name}: {f'{product.operator}, {product.precision}' if product.operator else 'not in the graph'}"
        if (more := len(self.float_products) - _LISTED) > 0:
            yield f"  and {more} more"


def explain_in_openvino(path: str | Path, *, batch: int = 1, threads: int = 1, runs: int = 20) -> OpenVinoExplanation:
    """Profiles a file in OpenVINO and reads its execution graph.

    Args:
        path: The file.
        batch: Batch size, if the file's batch is dynamic.
        threads: Threads.
        runs: Profiled runs, after one warm-up run, which counts too.

    Raises:
        ConfigError: If a count is not positive.
        LoweringError: If OpenVINO is not installed or cannot load the file.
    """
    if min(batch, threads, runs) < 1:
        raise ConfigError(f"batch={batch}, threads={threads}, runs={runs}", where="explain", expected="numbers above 0")
    session = OpenVinoSession(path, threads=threads, profiled=True)
    feed = OrtSession(path, optimized=False).random_feed(batch)
    for _ in range(1 + runs):
        session.run(feed)
    executed = tuple(sorted(_executed(session), key=lambda node: -node.milliseconds))
    products = _products(Path(path), executed)
    return OpenVinoExplanation(str(path), batch, threads, sum(node.milliseconds for node in executed), executed, products)


def _executed(session: OpenVinoSession) -> Iterator[ExecutedNode]:
    for node in session.compiled.get_runtime_model().get_ordered_ops():
        facts = {name: str(node.get_rt_info()[name].astype(str)) for name in _FACTS}
        if facts["layerType"] not in ("Const", "Input", "Output"):
            time = facts["execTimeMcs"]
            names = tuple(name for name in facts["originalLayersNames"].split(",") if name)
            yield ExecutedNode(
                facts["layerType"], facts["runtimePrecision"], float(time) / 1000 if time.isdigit() else 0.0, names
            )


_FACTS = ("layerType", "runtimePrecision", "execTimeMcs", "originalLayersNames")


def _products(path: Path, executed: Sequence[ExecutedNode]) -> tuple[ExecutedProduct, ...]:
    computed = {name: node for node in executed for name in node.nodes}
    graph = onnx.load(path, load_external_data=False).graph
    readers = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    found = []
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            by = _computed_by(node, readers, computed)
            found.append(ExecutedProduct(node.name, by.operator if by else "", by.precision if by else ""))
    return tuple(found)


def _computed_by(
    product: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]], computed: Mapping[str, ExecutedNode]
) -> ExecutedNode | None:
    """Returns the executed node that names a product or, failing that, the first of its readers."""
    pending, seen = [product], set()
    while pending:
        node = pending.pop(0)
        if node.name in computed:
            return computed[node.name]
        for reader in (reader for output in node.output for reader in readers[output]):
            if reader.name not in seen:
                seen.add(reader.name)
                pending.append(reader)
    return None
