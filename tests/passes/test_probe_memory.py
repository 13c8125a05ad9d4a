"""What probing a network takes does not grow with its depth: derivatives are reduced as they come, saved tensors lie on disk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes.analysis.sensitivity import Probe, output_errors
from qpass.passes.analysis.token_weights import token_weights
from qpass.runtime.storage import Storage
from tests.live_bytes import LiveBytes

TOKENS, WIDTH, ROWS = 256, 16, 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)


def network(depth: int) -> tuple[torch.fx.GraphModule, list[torch.fx.Node], list[ModelInputs]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(*(Attention() for _ in range(depth))).eval(), torch.randn(ROWS, TOKENS, WIDTH)
    graph = trace(model, (x,))
    return graph, list(calls(graph, aten.linear.default, aten.softmax.int)), [ModelInputs((x,), {})]


@pytest.mark.parametrize("what", ["token weights", "sensitivity"])
def test_the_peak_does_not_grow_with_depth(what: str) -> None:
    peaks = []
    for depth in (2, 8):
        graph, nodes, batches = network(depth)
        with LiveBytes() as live:
            if what == "token weights":
                token_weights(graph, nodes, batches, storage=Storage(0))
            else:
                output_errors(
                    graph,
                    {node: [torch.zeros_like if node.name.startswith("soft") else _none] for node in nodes},
                    batches,
                    storage=Storage(0),
                )
        peaks.append(live.peak)
    matrix = ROWS * TOKENS * TOKENS * 4
    assert peaks[1] < 1.1 * peaks[0] + 8 * 2**16, "what stays in memory is small"
    assert peaks[1] < 8 * matrix, "a few attention matrices, not those of every layer"


def _none(x: Tensor) -> Tensor:
    return torch.zeros(())


def test_free_memory_is_returned_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr("qpass.runtime.free_memory.BETWEEN_RETURNS", 0)
    monkeypatch.setattr("qpass.runtime.free_memory.return_free_memory", lambda: events.append("return"))
    graph, nodes, (batch,) = network(2)
    Probe(graph, set(nodes)).run(batch, lambda node, gradient: events.append("read"))
    first = events.index("read")
    assert events.count("read") == len(nodes)
    assert "return" in events[first:]


@pytest.mark.parametrize("gib", [None, 0])
def test_derivatives_are_those_of_one_run_back(gib: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpass.runtime.storage.SMALL_BYTES", 1)
    graph, nodes, batches = network(2)
    found = token_weights(graph, nodes, batches, storage=Storage(gib))
    assert list(found) == nodes
    outputs: dict[torch.fx.Node, Tensor] = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if n in nodes:
                outputs[n] = value if value.requires_grad else value.detach().requires_grad_()
                return outputs[n]
            return value

    y = Keep(graph).run(*batches[0].args)
    y = y[0] if isinstance(y, (tuple, list)) else y
    signs = torch.randint(2, y.shape, generator=torch.Generator().manual_seed(0)).to(y) * 2 - 1
    gradients = torch.autograd.grad(((signs * y).sum() / y.detach().norm()), list(outputs.values()))
    for (node, (weights,)), gradient in zip(found.items(), gradients, strict=True):
        squares = gradient.double().square().mean(-1).flatten()
        torch.testing.assert_close(weights, 0.5 + 0.5 * squares / squares.mean(), rtol=1e-5, atol=1e-6, msg=node.name)
