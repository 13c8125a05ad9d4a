"""Einsums become matmuls, whatever the order of their indices; the caller's model is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qpass
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes import Canonicalize
from qpass.passes.rules.matmul_from_einsum import matmul_from_einsum

SIZES = {"b": 2, "n": 3, "m": 4, "h": 2, "d": 3, "e": 2, "k": 3}


class Einsum(nn.Module):
    def __init__(self, equation: str, weight: str = "", first: bool = False) -> None:
        super().__init__()
        self.equation, self.first = equation, first
        self.weight = nn.Parameter(seeded(weight)) if weight else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = self.weight if y is None else y
        return torch.einsum(self.equation, *((y, x) if self.first else (x, y)))


def seeded(indices: str, rows: int = 2) -> Tensor:
    shape = [rows if index == "b" else SIZES[index] for index in indices]
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(model: nn.Module, *factors: str, products: int, linears: int = 0) -> None:
    graph = trace(model.eval(), tuple(seeded(f) for f in factors))
    Canonicalize()(graph)
    for rows in (2, 3):
        inputs = tuple(seeded(f, rows) for f in factors)
        torch.testing.assert_close(graph(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
    found = [len(list(calls(graph, op))) for op in (aten.einsum.default, aten.matmul.default, aten.linear.default)]
    assert found == [0, products, linears]


TWO_INPUTS = [
    ("bhnd,bhmd->bhnm", "bhnd", "bhmd", 1),
    ("bnhd, bmhd -> bhnm", "bnhd", "bmhd", 1),
    ("bhnm,bmhd->bnhd", "bhnm", "bmhd", 1),
    ("bnd,bmd", "bnd", "bmd", 1),
    ("...nd,...md->...nm", "bhnd", "bhmd", 1),
    ("...nd,...dm->n...m", "bhnd", "bhdm", 1),
    ("bnd,bd->bn", "bnd", "bd", 1),
    ("bd,bnd->bn", "bd", "bnd", 1),
    ("bnhd,bmhd->bnm", "bnhd", "bmhd", 1),
    ("bnhd,bmed->bhnme", "bnhd", "bmed", 1),
    ("bnd,bnd->bn", "bnd", "bnd", 0),
    ("bn,bd->bnd", "bn", "bd", 0),
    ("bnd,bn->bdn", "bnd", "bn", 0),
]


@pytest.mark.parametrize(("equation", "a", "b", "products"), TWO_INPUTS, ids=[case[0] for case in TWO_INPUTS])
def test_of_two_inputs(equation: str, a: str, b: str, products: int) -> None:
    check(Einsum(equation), a, b, products=products)


WITH_WEIGHT = [
    ("bnd,de->bne", "de", False),
    ("bnd,dhe->bnhe", "dhe", False),
    ("hde,bnd->bhne", "hde", True),
    ("bnhd,hde->bne", "hde", False),
]


@pytest.mark.parametrize(("equation", "weight", "first"), WITH_WEIGHT, ids=[case[0] for case in WITH_WEIGHT])
def test_with_a_weight_it_is_a_linear(equation: str, weight: str, first: bool) -> None:
    x = equation.partition("->")[0].split(",")[int(first)]
    check(Einsum(equation, weight, first), x, products=0, linears=1)


@pytest.mark.parametrize(
    ("equation", "factors", "reason"),
    [
        ("bnd,bmd->bn", ("bnd", "bmd"), "one factor alone"),
        ("bnn,bnd->bd", ("bnd", "bnd"), "twice"),
        ("bnd,bnd->bnd", ("bnd", "bne"), "size 1"),
    ],
)
def test_others_stay_with_a_reason(equation: str, factors: tuple[str, str], reason: str) -> None:
    b = seeded(factors[1])[..., :1] if reason == "size 1" else seeded(factors[1])
    graph = trace(Einsum(equation).eval(), (seeded(factors[0]), b))
    (near,) = matmul_from_einsum.apply(graph).declined
    assert reason in near.reason
    Canonicalize()(graph)
    assert list(calls(graph, aten.einsum.default))


class Attention(nn.Module):
    """Attention in einsums, with a softmax in float32 that is cast back, or one that is written out."""

    def __init__(self, softmax: str) -> None:
        super().__init__()
        self.softmax, self.out = softmax, nn.Linear(16, 8)
        self.qkv = nn.Parameter(torch.randn(3, 16, 2, 8, generator=torch.Generator().manual_seed(0)) / 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, w) for w in self.qkv)
        logits = torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5
        if self.softmax == "cast back":
            weights = nn.functional.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype)
        elif self.softmax == "in float64":
            weights = logits.softmax(-1, dtype=torch.float64).to(q.dtype)
        elif self.softmax == "special":
            weights = torch.special.softmax(logits, -1)
        elif self.softmax == "of a logarithm":
            weights = logits.log_softmax(-1).exp()
        else:
            e = (logits - logits.amax(-1, keepdim=True)).exp() if "max" in self.softmax else logits.exp()
            weights = e / e.sum(-1, keepdim=True)
        return self.out(torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2))


SOFTMAXES = ("cast back", "in float64", "special", "of a logarithm", "exp / sum", "exp(x - max) / sum")


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_attention_is_planned_from_its_projections_to_its_softmax(softmax: str) -> None:
    x = torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(1))
    graph = qpass.quantize_graph(Attention(softmax).eval(), [x], "w8a8", progress=False)
    report = qpass.quantization_report(graph)
    assert report.counts == {"linear": 4, "matmul": 2}
    assert report.stayed_float == ()
    softmax_specs = [operand for node in graph.graph.nodes for operand in getattr(node.meta.get("qpass"), "operands", ())]
    assert [operand.role for operand in softmax_specs].count("post_softmax") == 1


def test_attention_in_einsums_reaches_the_file(tmp_path: Path) -> None:
    x = torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(1))
    graph = qpass.quantize_graph(Attention("cast back").eval(), [x], "w4a4", progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), x).passed


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data(), shared=st.sampled_from(["", "h", "hd"]), summed=st.sampled_from(["", "k", "ke"]), swap=st.booleans())
def test_equations_drawn_at_random(data: st.DataObject, shared: str, summed: str, swap: bool) -> None:
    """Any order of indices in both factors and in the result; sizes of which some are equal."""
    left, right = data.draw(st.sampled_from(["", "n"])), data.draw(st.sampled_from(["", "m"]))
    a, b, out = (
        "".join(data.draw(st.permutations(list(indices))))
        for indices in (shared + summed + left, shared + summed + right, shared + left + right)
    )
    a, b, out = "b" + a, "b" + b, "b" + out
    model = Einsum(f"{b},{a}->{out}" if swap else f"{a},{b}->{out}").eval()
    factors = (b, a) if swap else (a, b)
    graph = trace(model, tuple(seeded(f) for f in factors))
    Canonicalize()(graph)
    assert not list(calls(graph, aten.einsum.default))
    for rows in (2, 3):
        inputs = tuple(seeded(f, rows) for f in factors)
        torch.testing.assert_close(graph(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
