"""Constants that are larger than what they are made from stay operators, in the graph and in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq.export import export_float
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes import Canonicalize
from qpass.passes.rules import constant_forms
from qpass.passes.rules.constant_forms import NODE_BYTES, SMALL_BYTES

TOKENS, HEADS, WINDOWS = 36, 6, 16


class Windows(nn.Module):
    """Attention in windows of an image: a bias for each head from a table, a mask for each window from its regions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)
        self.table = nn.Parameter(torch.randn(121, HEADS))
        position = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")).flatten(1)
        distance = position[:, :, None] - position[:, None] + 5
        self.index: Tensor
        self.register_buffer("index", distance[0] * 11 + distance[1], persistent=False)

    def regions(self) -> Tensor:
        edge = torch.arange(24) // 18 + torch.arange(24) // 21
        grid = edge[:, None] * 3 + edge
        return grid.reshape(4, 6, 4, 6).transpose(1, 2).reshape(WINDOWS, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, windows, tokens, channels)"""
        q, k, v = self.qkv(x).view(-1, TOKENS, 3, HEADS, 4).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-2, -1) + self.table[self.index].permute(2, 0, 1)
        regions = self.regions()
        mask = (regions[:, None] != regions[:, :, None]).float() * -100.0
        weights = weights.view(-1, WINDOWS, HEADS, TOKENS, TOKENS) + mask[:, None]
        y = weights.view(-1, HEADS, TOKENS, TOKENS).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(x.shape))


def test_files_hold_tables_and_regions_and_no_masks(tmp_path: Path) -> None:
    model, x = windows()
    graph = qpass.quantize_graph(model, [x, x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "windows.onnx")
    sizes = {array.size for array in initializers(path)}
    assert TOKENS * TOKENS in sizes, "the index"
    assert max(sizes) < HEADS * TOKENS * TOKENS, "neither heads nor windows are spread over it"
    assert path.stat().st_size < 40_000, "with a mask for each window it had 150,000 bytes"
    assert qpass.verify_onnx(graph, path, x).passed


@pytest.mark.slow
def test_constants_with_the_same_values_are_one_in_the_file(tmp_path: Path) -> None:
    model, x = windows(layers=3)
    path = export_float(canonical(model, x), tmp_path / "windows.onnx")
    assert sum(array.size == TOKENS * TOKENS for array in initializers(path)) == 1


CASES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "expanded": lambda m, x: x + m.row.expand(64, 64),
    "repeated": lambda m, x: x + m.row.repeat(64, 1),
    "interleaved": lambda m, x: x + m.row.repeat_interleave(64).reshape(64, 64),
    "outer sum": lambda m, x: x + (m.row.T + m.row),
    "outer comparison": lambda m, x: x.masked_fill(m.row < m.row.T, 0.0),
    "selected": lambda m, x: x * torch.where(m.row.T > 0, m.row, -m.row),
    "causal": lambda m, x: x.masked_fill(~torch.ones(64, 64).tril().bool(), -9.0),
    "looked up": lambda m, x: x + m.table[m.index],
    "embedded": lambda m, x: x + F.embedding(m.index[:, 0], m.row.T).expand(64, 64),
    "sines": lambda m, x: x + torch.cat([(m.row.T * m.row[:, :32]).sin(), (m.row.T * m.row[:, :32]).cos()], -1),
    "rolled and padded": lambda m, x: x + F.pad(m.row.expand(32, 64).roll(3, 1), (0, 0, 16, 16)),
    "stacked": lambda m, x: x + torch.stack([m.row[0]] * 4).repeat(16, 1),
    "several readers": lambda m, x: sum((x * (m.large * k) for k in range(2, 6)), x),
}


@pytest.mark.parametrize("name", CASES)
def test_constants_grow_by_no_more_than_the_operators_that_go(name: str) -> None:
    model, x = Tables(CASES[name]).eval(), torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    before = trace(model, (x,))
    after = canonical(model, x)
    gone = len(before.graph.nodes) - len(after.graph.nodes)
    assert bytes_of_constants(after) <= bytes_of_constants(before) + SMALL_BYTES + NODE_BYTES * max(0, gone)
    torch.testing.assert_close(after(x), model(x), rtol=0, atol=0)


def test_what_weighs_is_stored_whatever_its_size() -> None:
    """A product with a computed matrix is a Linear only where the matrix is there."""
    model = Tables(lambda m, x: F.linear(x, m.row.T * m.row, m.row[0] * 2)).eval()
    graph = canonical(model, torch.randn(4, 64, 64))
    (linear,) = calls(graph, aten.linear.default)
    assert [read.op for read in linear.all_input_nodes[1:]] == ["get_attr", "get_attr"]


#: One expression for each operator that may stay; the left side is x.
EXPRESSIONS: dict[str, Callable[[Any], Tensor]] = {
    "expand": lambda m: m.row.expand(64, 64),
    "repeat": lambda m: m.row.repeat(64, 1),
    "repeat_interleave": lambda m: m.row.repeat_interleave(64, 0),
    "index": lambda m: m.table[m.index],
    "index_select": lambda m: m.row.index_select(0, m.index[0] * 0),
    "gather": lambda m: m.table.expand(64, 9).gather(1, m.index % 9),
    "embedding": lambda m: F.embedding(m.index, m.table[:, None])[..., 0],
    "cat": lambda m: torch.cat([m.row] * 64),
    "stack": lambda m: torch.stack([m.row[0]] * 64),
    "view": lambda m: m.wide.view(64, 64),
    "reshape": lambda m: m.wide.reshape(64, 64),
    "flatten": lambda m: m.wide.view(64, 8, 8).flatten(1),
    "unflatten": lambda m: m.wide.unflatten(0, (64, 64)),
    "unsqueeze": lambda m: m.row[0].unsqueeze(1).expand(64, 64),
    "squeeze": lambda m: m.row.expand(64, 64).unsqueeze(0).squeeze(0),
    "permute": lambda m: m.row.expand(64, 64).permute(1, 0),
    "transpose": lambda m: m.row.expand(64, 64).transpose(0, 1),
    "t": lambda m: m.row.expand(64, 64).t(),
    "clone": lambda m: m.row.expand(64, 64).clone(),
    "contiguous": lambda m: m.row.expand(64, 64).contiguous(),
    "slice": lambda m: m.row.expand(80, 64)[8:72],
    "select": lambda m: m.row.expand(2, 64, 64)[1],
    "pad": lambda m: F.pad(m.row.expand(60, 64), (0, 0, 2, 2), value=1.0),
    "constant_pad_nd": lambda m: aten.constant_pad_nd.default(m.row.expand(60, 64), [0, 0, 2, 2], 1.0),
    "roll": lambda m: m.square().roll((3, -2), (0, 1)),
    "flip": lambda m: m.square().flip(1),
    "tril": lambda m: m.square().tril(),
    "triu": lambda m: m.square().triu(1),
    "alias": lambda m: aten.alias.default(m.square()),
    "detach": lambda m: m.square().detach(),
    "_to_copy": lambda m: aten._to_copy.default(m.square() > 0, dtype=torch.float32),
    "to": lambda m: (m.square() > 0).to(torch.float32),
    "add": lambda m: m.row.T + m.row,
    "sub": lambda m: m.row.T - m.row,
    "rsub": lambda m: torch.rsub(m.row.T, m.row),
    "mul": lambda m: m.row.T * m.row,
    "div": lambda m: m.row.T / (m.row.abs() + 1),
    "neg": lambda m: -m.square(),
    "abs": lambda m: m.square().abs(),
    "sign": lambda m: m.square().sign(),
    "sqrt": lambda m: m.square().abs().sqrt(),
    "exp": lambda m: m.square().exp(),
    "log": lambda m: (m.square().abs() + 1).log(),
    "sin": lambda m: m.square().sin(),
    "cos": lambda m: m.square().cos(),
    "tanh": lambda m: m.square().tanh(),
    "sigmoid": lambda m: m.square().sigmoid(),
    "clamp": lambda m: m.square().clamp(-1, 1),
    "clamp_min": lambda m: m.square().clamp_min(0),
    "clamp_max": lambda m: m.square().clamp_max(0),
    "minimum": lambda m: torch.minimum(m.row.T, m.row),
    "maximum": lambda m: torch.maximum(m.row.T, m.row),
    "where": lambda m: torch.where(m.row.T > 0, m.row, 2.0),
    "masked_fill": lambda m: m.square().masked_fill(m.square() > 1, 0.5),
    "eq": lambda m: (m.index == m.index[:1]).float(),
    "ne": lambda m: (m.index != m.index[:1]).float(),
    "lt": lambda m: (m.row > m.row.T).float(),
    "le": lambda m: (m.row >= m.row.T).float(),
    "gt": lambda m: (m.row < m.row.T).float(),
    "ge": lambda m: (m.row <= m.row.T).float(),
    "logical_and": lambda m: torch.logical_and(m.row.T > 0, m.row > 0).float(),
    "logical_or": lambda m: torch.logical_or(m.row.T > 0, m.row > 0).float(),
    "logical_not": lambda m: torch.logical_not(m.square() > 0).float(),
    "logical_xor": lambda m: torch.logical_xor(m.row.T > 0, m.row > 0).float(),
    "bitwise_and": lambda m: ((m.row.T > 0) & (m.row > 0)).float(),
    "bitwise_or": lambda m: ((m.row.T > 0) | (m.row > 0)).float(),
    "bitwise_not": lambda m: (~(m.square() > 0)).float(),
    "zeros": lambda m: torch.zeros(64, 64) + m.row,
    "ones": lambda m: torch.ones(64, 64) * m.row,
    "full": lambda m: torch.full((64, 64), 0.5),
    "arange": lambda m: (torch.arange(64)[:, None] * torch.arange(64)).float(),
    "zeros_like": lambda m: torch.zeros_like(m.square()),
    "ones_like": lambda m: torch.ones_like(m.square()),
    "full_like": lambda m: torch.full_like(m.square(), 3.0),
}


def test_what_may_stay_is_exported_and_computes_the_same(tmp_path: Path) -> None:
    assert EXPRESSIONS.keys() == constant_forms.REPEATABLE
    model = Tables(lambda m, x: [x + expression(m) for expression in EXPRESSIONS.values()]).eval()
    x = torch.randn(4, 64, 64)
    graph = canonical(model, x)
    path = export_float(graph, tmp_path / "model.onnx")
    assert path.stat().st_size < 0.25 * len(EXPRESSIONS) * 64 * 64 * 4
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        found = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
        for name, actual, expected, own in zip(EXPRESSIONS, found, model(x), graph(x), strict=True):
            close = torch.allclose(torch.from_numpy(actual), expected, rtol=1e-6, atol=1e-6)
            assert close, name
            assert torch.equal(own, expected), name


class Tables(nn.Module):
    """A function of x and of tensors of the model."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.function = function
        self.row, self.table = (nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((1, 64), (9,)))
        self.large, self.wide = (nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((64, 64), (4096,)))
        self.register_buffer("index", torch.randint(9, (64, 64), generator=generator))

    def square(self) -> Tensor:
        return self.row.T * self.row

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def windows(layers: int = 1) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(Windows() for _ in range(layers))).eval(), torch.randn(4, WINDOWS, TOKENS, 24)


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model, (x,))
    Canonicalize()(graph)
    return graph


def bytes_of_constants(graph: fx.GraphModule) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*graph.parameters(), *graph.buffers()])


def initializers(path: Path) -> list[Any]:
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
