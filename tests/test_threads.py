"""Threads of one process: what one of them captures and quantizes touches no other."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.functionalize import without_autocast


class Mixed(nn.Module):
    """A Linear under autocast and one in float32, and a line that fixes the batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.one(x)
        return self.two(y.float()) * len(x)


def data(seed: int) -> Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))


def quantized(seed: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return qpass.quantize_graph(Mixed(seed).eval(), [data(seed)], "w8a8", progress=False)(data(seed + 1))


def test_other_threads_keep_their_autocast() -> None:
    inside, done = threading.Event(), threading.Event()

    def capture() -> torch.dtype:
        with without_autocast():
            inside.set()
            assert done.wait(60)
            return Mixed(0).one(data(0)).dtype

    model = Mixed(0)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(capture)
        assert inside.wait(60)
        with torch.autocast("cpu", torch.bfloat16):
            assert model.one(data(0)).dtype is torch.bfloat16
            assert torch.autocast("cpu", torch.bfloat16)(model.one)(data(0)).dtype is torch.bfloat16
        assert model.one(data(0)).dtype is torch.float32
        done.set()
        assert other.result() is torch.float32


@pytest.mark.parametrize("threads", [4])
def test_threads_quantize_at_the_same_time(threads: int) -> None:
    interval = sys.getswitchinterval()
    expected = [quantized(seed) for seed in range(threads)]
    out, err = sys.stdout, sys.stderr
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(quantized, range(threads)))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (sys.stdout, sys.stderr) == (out, err)
    assert Mixed(0)(data(0)).isfinite().all()
