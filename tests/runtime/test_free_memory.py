from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch
from torch import Tensor, fx

from qpass.runtime.free_memory import TidyInterpreter, _trim, return_free_memory


@pytest.mark.slow
@pytest.mark.skipif(_trim() is None, reason="a C library without malloc_trim")
def test_freed_memory_leaves_the_process() -> None:
    """Small tensors that stay between large ones that go keep the memory of these."""
    script = """
import torch
from qpass.runtime.free_memory import return_free_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
freed = torch.ones(2**22)  # once 16 MiB were freed, glibc takes as much from its heap
del freed
small, large, before = [], [], resident()
for _ in range(64):
    large.append(torch.ones(2**20))
    small.append(torch.ones(2**14))
large.clear()
grown = resident() - before
return_free_memory()
print(grown, resident() - before)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    grown, left = map(float, output.split())
    assert grown > 128, "of 256 MiB; otherwise this shows nothing"
    assert left < 16


def test_a_run_returns_memory_as_it_makes_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    returns: list[int] = []
    monkeypatch.setattr("qpass.runtime.free_memory.BETWEEN_RETURNS", 2 * 4096)
    monkeypatch.setattr("qpass.runtime.free_memory.return_free_memory", lambda: returns.append(1))

    def forward(x: Tensor) -> Tensor:
        for _ in range(9):
            x = (x + 1).view(32, 32).view(1024)  # views are no new tensors
        return x

    graph, x = fx.symbolic_trace(forward), torch.zeros(1024)
    with torch.no_grad():
        assert torch.equal(TidyInterpreter(graph).run(x), forward(x))
    assert len(returns) == 3, "once in three of ten tensors of 4096 bytes, the input among them"


def test_a_library_without_it_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    _trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    try:
        assert _trim() is None
        return_free_memory()
    finally:
        _trim.cache_clear()
