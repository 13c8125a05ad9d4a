"""Regions: their bodies are inlined, and those that must stay are listed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qpass
from qpass.config import QuantConfig
from qpass.graph.capture.functionalize import is_region
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, get_plan
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import Declined


class Regions(nn.Module):
    """Two Linears, the first of which runs in a region."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.one, self.two = kind, nn.Linear(6, 6), nn.Linear(6, 6)

    def inside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.one(x)
        y[:, :2] *= 3
        return y, (x @ y.mT).to(y.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "set_grad_enabled":
            with torch.set_grad_enabled(True):
                y, z = self.inside(x)
        elif self.kind == "nested":
            with torch.enable_grad():
                y = x * 2
                with torch.no_grad():
                    y, z = self.inside(y)
                    with torch.enable_grad():
                        z = z * y.mean(-1, keepdim=True).mT
        elif self.kind == "inference":
            with torch.no_grad():
                y, z = self.inside(x)
        elif self.kind.startswith("autocast"):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.kind == "autocast"):
                y, z = self.inside(x)
        elif self.kind == "decorated":
            y, z = torch.autocast("cpu", torch.bfloat16)(self.inside)(x)
        else:
            with torch.enable_grad():
                y, z = checkpoint(self.inside, x, use_reentrant=False)
        return self.two(y) + z.sum(-1, keepdim=True)


KINDS = ("set_grad_enabled", "nested", "inference", "autocast", "autocast off", "decorated", "checkpoint")


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_inlined(kind: str) -> None:
    model, x = Regions(kind).eval(), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    graph = trace(model, (x,))
    assert not any(map(is_region, graph.graph.nodes))
    assert len(list(calls(graph, aten.linear.default))) == 2
    model.kind = {"autocast": "autocast off", "decorated": "autocast off"}.get(kind, kind)
    with torch.no_grad():
        for rows in (3, 1, 1):
            torch.testing.assert_close(graph(x[:rows]), model(x[:rows]), rtol=1e-6, atol=1e-6)


def test_autocast_works_again_afterwards() -> None:
    model, x = Regions("autocast").eval(), torch.randn(2, 4, 6)
    trace(model, (x,))
    assert model.inside(x)[0].dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model.inside(x)[0].dtype is torch.bfloat16


def test_a_branch_that_stays_is_listed_with_its_linears() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.cond(x.sum() > 0, lambda t: self.one(self.one(t)), lambda t: self.one(t), (x,)))

    graph = trace(Branch().eval(), (torch.randn(3, 6),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    (declined,) = [plan for node in graph.graph.nodes if isinstance(plan := get_plan(node), Declined)]
    assert declined.kind == "cond"
    assert "3 Linears" in declined.reason


def test_a_branch_in_a_branch_is_kept_with_all_that_it_holds() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def inner(self, x: Tensor) -> Tensor:
            return torch.cond(x.mean() > 0.1, lambda t: self.one(t), lambda t: t + 1, (x,))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.cond(x.sum() > 0, self.inner, lambda t: t * 2, (x,)))

    model, x = Nested().eval(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    graph = trace(model, (x,))
    Canonicalize()(graph)
    with torch.no_grad():
        for sample in (x.abs(), -x.abs(), x.abs() * 1e-3):
            torch.testing.assert_close(graph(sample), model(sample))


class Views(nn.Module):
    """Writes to a view outside of the no_grad region that made it, which only runs in no_grad."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.last = kind, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        with torch.no_grad():
            part = y.split(3, 1)[0] if self.kind == "split" else y[:, :3]
        if self.kind == "write with gradients":
            with torch.set_grad_enabled(True):
                part *= 2
        else:
            part *= 2
        return self.last(y)


@pytest.mark.parametrize("kind", ["slice", "split", "write with gradients"])
def test_a_view_made_in_no_grad_may_be_written_outside_of_it(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Views(kind).eval(), torch.randn(4, 6)
    with pytest.raises(RuntimeError, match="no_grad mode"):
        model(x)
    graph = qpass.quantize_graph(model, [x], {"preset": "w8a8", "rules": {"*": None}}, progress=False)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(graph(x), expected)


class WithGradients(nn.Module):
    """Runs with gradients, where torch refuses some writes to values that require any."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.last = kind, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(True):
            y = self.layer(x)
            if self.kind == "out":
                torch.add(y, 1, out=(y := torch.empty_like(y)))
            elif self.kind == "view":
                with torch.no_grad():
                    part = y[:, :3]
                part *= 2
            else:
                self.layer.bias.add_(0)
        return self.last(y)


@pytest.mark.parametrize("kind", ["out", "view", "parameter"])
@pytest.mark.parametrize("parts", [False, True])
def test_a_forward_that_only_runs_where_parameters_require_no_gradients(kind: str, parts: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(WithGradients(kind), nn.Identity()).eval(), torch.randn(4, 6)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"automatic differentiation|no_grad mode|leaf Variable"):
        model(x)
    config = {"preset": "w8a8", "rules": {"*": None}}
    graph = qpass.quantize_graph(model, [x], config, submodules=["0"] if parts else None, progress=False)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        expected = model.requires_grad_(False)(x)
    torch.testing.assert_close(graph(x), expected)
