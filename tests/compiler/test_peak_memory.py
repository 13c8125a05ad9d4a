"""What a whole recipe takes in memory does not grow with the network's depth when nothing may be kept there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.compiler.run import RunOptions, quantize_traced
from qpass.config import QuantConfig
from qpass.data import KeptBatches, ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.source_check import Source
from qpass.passes import Pass
from qpass.runtime.storage import Storage
from tests.live_bytes import LiveBytes

TOKENS, WIDTH, ROWS = 384, 16, 8
#: Bytes of the attention matrix of a batch, by far the largest value.
MATRIX = ROWS * TOKENS * TOKENS * 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)


def peaks(depth: int, recipe: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Returns the peak of live bytes during each pass, and in the report behind them.

    The largest of them is a histogram's. It would hide what other passes keep.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(ROWS, TOKENS, WIDTH, generator=generator) for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*(Block() for _ in range(depth))).eval()
    storage = Storage(0)
    kept = KeptBatches(storage)
    for batch in batches:
        kept.append(ModelInputs((batch,), {}))
    graph = trace(model, (batches[0],))
    source = Source(model, graph, kept)
    live, found = LiveBytes(), dict[str, int]()
    call = Pass.__call__

    def measured(self: Pass, graph_module: fx.GraphModule) -> bool:
        live.peak = live.now
        changed = call(self, graph_module)
        found[type(self).__name__] = max(found.get(type(self).__name__, 0), live.peak)
        live.peak = live.now
        return changed

    with monkeypatch.context() as patch, live:
        patch.setattr(Pass, "__call__", measured)
        quantize_traced(graph, kept, QuantConfig.from_any(recipe), RunOptions(storage=storage), source)
    return {**found, "report": live.peak}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["w8a8", "mixed-w4a5"])
def test_the_peak_does_not_grow_with_depth(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = peaks(2, recipe, monkeypatch), peaks(6, recipe, monkeypatch)
    grown = {step: (many[step] - few[step]) / MATRIX for step in few}
    assert max(grown.values()) < 1, f"four more blocks have eight matrices, and gradients of as many: {grown}"
