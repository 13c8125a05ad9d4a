"""Threads of one process: what one of them captures and quantizes touches no other."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.graph.capture.functionalize import without_autocast


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


def quantized(model: nn.Module, seed: int) -> Tensor:
    return qpass.quantize_graph(model, [data(seed)], "w8a8", progress=False)(data(seed + 1))


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


@pytest.mark.filterwarnings("ignore:Mixed. the batch is fixed")
@pytest.mark.parametrize("threads", [4])
def test_threads_quantize_at_the_same_time(threads: int) -> None:
    interval = sys.getswitchinterval()
    models = [Mixed(seed).eval() for seed in range(threads)]  # their seeds are of the whole process
    expected = list(map(quantized, models, range(threads)))
    out, err = sys.stdout, sys.stderr
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(quantized, models, range(threads)))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (sys.stdout, sys.stderr) == (out, err)
    assert Mixed(0)(data(0)).isfinite().all()


class Transformer(nn.Module):
    """One block of attention, which a recipe may learn."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)])
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[0](x).mean(1))


RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "mixed-w4a5": "mixed-w4a5",
    "learned": {"preset": "aiqvit-w4a4", "reconstruction": {"ranks": [2], "search_steps": 2, "steps": 4, "batch_size": 4}},
}


def transformer() -> Transformer:
    torch.manual_seed(3)
    return Transformer().eval()


def whole_way(
    recipe: Any, model: nn.Module, folder: Path, beside: Callable[[], AbstractContextManager[object]] = nullcontext
) -> tuple[bytes, str]:
    """Quantizes, writes, verifies and loads; returns the graph's file and the verdict.

    Args:
        recipe: The recipe.
        model: The model.
        folder: For the files.
        beside: What else goes on meanwhile, except while torch exports: its exporter restores the random state itself.
    """
    x = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with beside():
            graph = qpass.quantize_graph(model, [x], recipe, progress=False)
        path = qpass.export_onnx(graph, folder / "m.onnx")
        with beside():
            report = qpass.verify_onnx(graph, path, x)
            again = qpass.load(qpass.save(graph, folder / "m.qpass"))
    assert torch.equal(again(x), graph(x))
    return (folder / "m.qpass").read_bytes(), report.verdict


class Neighbour(threading.Thread):
    """Draws random numbers, makes tensors and prints as long as another thread works."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended, self.drawn, self.kinds, self.printed = threading.Event(), list[float](), set[torch.dtype](), 0

    def run(self) -> None:
        torch.manual_seed(11)
        while not self.ended.wait(0.001):
            self.drawn.append(torch.rand(()).item())
            self.kinds.add(torch.ones(1).dtype)
            print("neighbour")
            self.printed += 1


@contextmanager
def neighbour() -> Iterator[None]:
    """Lets a neighbour work meanwhile, and checks that it noticed nothing."""
    thread = Neighbour()
    thread.start()
    try:
        yield
    finally:
        thread.ended.set()
        thread.join()
    torch.manual_seed(11)
    assert thread.drawn == [torch.rand(()).item() for _ in thread.drawn]
    assert thread.kinds == {torch.float32}
    assert thread.printed > 10


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_thread_that_draws_and_prints_changes_nothing_and_notices_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = transformer()
    alone = whole_way(RECIPES[recipe], model, tmp_path)
    capsys.readouterr()
    assert whole_way(RECIPES[recipe], model, tmp_path, neighbour) == alone
    assert set(capsys.readouterr().out.split()) == {"neighbour"}


@pytest.mark.slow
def test_a_run_that_starts_meanwhile_changes_nothing(tmp_path: Path) -> None:
    models = [transformer(), transformer()]
    folders = [tmp_path / name for name in ("alone", "first", "second")]
    for folder in folders:
        folder.mkdir()
    alone = whole_way("mixed-w4a5", models[0], folders[0])

    def later(delay: float) -> tuple[bytes, str]:
        time.sleep(delay)
        return whole_way("mixed-w4a5", models[delay > 0], folders[1 + (delay > 0)])

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(later, (0.0, 0.3)))
    assert found == [alone, alone]
