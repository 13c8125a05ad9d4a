"""What a forward does for one row alone is no part of a graph that was captured with several: then the batch is fixed."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import TraceError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of


class Net(nn.Module):
    """Images (batch, 3, 16, 16) -> (batch, 5), written as people write it; ``forward`` is another in each subclass."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
            self.mlp, self.pool, self.head = nn.Linear(16, 16), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def tokens(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(self.patches(x).flatten(2).transpose(1, 2)))


class Pooled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.patches(x)).squeeze())  # LINE


class FirstDim(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).mean(1).squeeze(0))  # LINE


class NegativeDim(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.squeeze(self.tokens(x).mean(1), dim=-2))  # LINE


class SeveralDims(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).mean(1, keepdim=True).squeeze((0, 1)))  # LINE


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1, keepdim=True)
        t.squeeze_()  # LINE
        return self.head(t)


class Equal(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        if x.shape[0] == 1:  # LINE
            t = t * 2
        return self.head(t)


class Shape(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        return self.head(t + 1 if x.shape == (1, 3, 16, 16) else t)  # LINE


class Several(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        if x.size(0) > 1:  # LINE
            t = t - t.mean(0, keepdim=True)
        return self.head(t)


class Dims(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1).squeeze()  # LINE
        return self.head(t[None] if t.dim() == 1 else t)


class Second(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        return self.head(t + t[1])  # LINE


class More(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        return self.head(t * 2 if x.shape[0] > 4 else t)  # LINE


class Length(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).mean(1).view(len(x), -1))  # LINE


class Key(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).mean(1)) * {1: 2.0}.get(x.shape[0], 1.0)  # LINE


class Cached(Net):
    """Its mask is made anew for another number of rows."""

    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        if self.mask is None or self.mask.shape[0] != x.shape[0]:
            self.mask = torch.ones(x.shape[0], 1)
        return self.head(t * self.mask)


FIXED = [Pooled, FirstDim, NegativeDim, SeveralDims, InPlace, Equal, Shape, Several, Dims, Second, More, Length, Key]


class NamedDims(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.patches(x)).squeeze(-1).squeeze(-1))


class Empty(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).mean(1)
        return self.head(t * 2 if x.shape[0] else t)


class Flat(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x)
        return self.head(t.flatten().view(-1, 16)).view(x.shape[0], -1, 5).mean(1) / x.shape[0]


class FourTimes(Net):
    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x).reshape(x.shape[0] * 16, 1, 16).squeeze()
        return self.head(t).view(-1, 16, 5).mean(1)


OPEN = [NamedDims, Empty, Flat, FourTimes, Cached]


def data(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def file_agrees(model: nn.Module, file: Path, x: Tensor) -> bool:
    """Tells whether onnxruntime itself takes rows, and gives what the float model gives to 8 bits."""
    session = onnxruntime.InferenceSession(file)
    try:
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    except Exception:  # onnxruntime raises kinds of its own
        return False
    with torch.no_grad():
        expected = model(x).numpy()
    assert found.shape == expected.shape
    return bool(np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("kind", FIXED)
def test_the_batch_is_fixed_and_the_line_is_named(kind: type[Net], tmp_path: Path) -> None:
    lines, start = inspect.getsourcelines(kind)
    number = start + next(place for place, line in enumerate(lines) if "# LINE" in line)
    model = kind().eval()
    with pytest.warns(UserWarning, match=rf"{kind.__name__}: the batch is fixed at 4, .*test_one_row\.py:{number}\b"):
        graph = qpass.quantize_graph(model, [data(4), data(4, 1)], "w8a8", progress=False)
    file = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, file, data(4, 2)).passed
    for rows in (1, 2, 4, 8):
        assert file_agrees(model, file, data(rows, 3)) == (rows == 4)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("kind", OPEN)
def test_every_number_of_rows_that_a_file_takes_is_right(kind: type[Net], tmp_path: Path) -> None:
    model = kind().eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batch is fixed")
        graph = qpass.quantize_graph(model, [data(4), data(4, 1)], "w8a8", progress=False)
    file = qpass.export_onnx(graph, tmp_path / "m.onnx")
    for rows in (1, 2, 3, 8):
        assert file_agrees(model, file, data(rows, 3))


def test_a_call_that_the_model_itself_does_not_take_is_refused() -> None:
    with pytest.raises(TraceError, match=r"Second: the model does not run on inputs of shape \[\(1, 3, 16, 16\)\]"):
        trace(Second().eval(), (data(1),))


class Tokens(nn.Module):
    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.layer, self.branch = nn.Linear(8, 8), branch

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * 2 if self.branch and x.shape[1] == 1 else y


def test_a_dim_that_the_caller_opens_may_be_one() -> None:
    x = torch.randn(4, 6, 8)
    with pytest.raises(TraceError, match=r"test_one_row\.py:\d+ treats tokens of 1 differently"):
        trace(Tokens(branch=True).eval(), (x,), dynamic_shapes={"x": {0: "batch", 1: "tokens"}})
    more = {"x": {0: "batch", 1: torch.export.Dim("tokens", min=2)}}
    assert facts_of(trace(Tokens(branch=True).eval(), (x,), dynamic_shapes=more)).dims == [("batch", "tokens", 8)]


def test_the_rows_stay_fixed_where_the_caller_opens_other_dims() -> None:
    model, x = Tokens(branch=False).eval(), torch.randn(4, 6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = trace(model, (x,), dynamic_shapes={"x": {1: "tokens"}})
    assert facts_of(graph).dims == [(4, "tokens", 8)]
    torch.testing.assert_close(graph(x[:, :3]), model(x[:, :3]))
