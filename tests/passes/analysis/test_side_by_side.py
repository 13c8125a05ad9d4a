"""Batches in lockstep give what they give one by one, and values go after their last reader."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes.analysis.side_by_side import SideBySide
from qpass.runtime.storage import Storage


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        first, second = (self.linear(x) * (self.table.cos() + scale)).chunk(2, -1)
        return first.sin() + second


def parts(*rows: int) -> list[ModelInputs]:
    generator = torch.Generator().manual_seed(0)
    return [ModelInputs((torch.randn(n, 4, generator=generator),), {"scale": torch.tensor(float(n))}) for n in rows]


@pytest.fixture
def graph() -> fx.GraphModule:
    (example,) = parts(2)
    return trace(Mixed().eval(), example.args, example.kwargs)


@pytest.mark.parametrize("limit", [0, 10**9], ids=["on disk", "in memory"])
def test_every_batch_gives_what_it_gives_alone(graph: fx.GraphModule, limit: int) -> None:
    batches = parts(2, 3, 5)
    runs = SideBySide(graph, batches, storage=Storage(limit))
    *nodes, output = graph.graph.nodes
    for node in nodes:
        runs.step(node)
    found = runs.values(output.all_input_nodes[0])
    assert len(found) == 3
    for batch, value in zip(batches, found, strict=True):
        assert torch.equal(value, graph(*batch.args, **batch.kwargs))
    assert [len(value) for value in found[1:]] == [3, 5]


def test_a_change_is_read_by_what_follows(graph: fx.GraphModule) -> None:
    batches = parts(2, 3)
    runs, sine = SideBySide(graph, batches), next(calls(graph, aten.sin.default))
    *nodes, output = graph.graph.nodes
    for node in nodes:
        runs.step(node, (lambda index, value: value + 10 * index) if node is sine else lambda _, value: value)
    for index, (batch, value) in enumerate(zip(batches, runs.values(output.all_input_nodes[0]), strict=True)):
        torch.testing.assert_close(value, graph(*batch.args, **batch.kwargs) + 10 * index)


def test_a_value_is_kept_until_its_last_reader_and_what_also_reads_it(graph: fx.GraphModule) -> None:
    linear, product = next(calls(graph, aten.linear.default)), next(calls(graph, aten.mul.Tensor))
    sine = next(calls(graph, aten.sin.default))
    for also, longer in (({}, False), ({sine: linear}, True)):
        runs = SideBySide(graph, parts(2), also_read=also)
        for node in list(graph.graph.nodes)[:-1]:
            if node is linear:
                runs.step(node)
                value = weakref.ref(next(iter(runs.values(linear))))
                continue
            runs.step(node)
            if node in (product, sine):
                gc.collect()
                assert len(runs.values(linear)) == 1
                kept = linear in runs._values[0]
                assert kept == (longer and node is product), node.name
        assert value() is None or longer


def test_constants_are_computed_once(graph: fx.GraphModule) -> None:
    cosine = next(calls(graph, aten.cos.default))
    runs = SideBySide(graph, parts(2, 3))
    for node in list(graph.graph.nodes)[:-1]:
        runs.step(node)
        if node is cosine:
            first, second = runs.values(cosine)
            assert first is second
