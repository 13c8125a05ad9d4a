"""A tensor into which a mask fills values stays float and is listed, however the mask is written; others are quantized."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.graph.fills import filled_values
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import Declined, LayerPlan

TOKENS, WIDTH, HEADS = 9, 32, 4
Fill = Callable[[Tensor, Tensor], Tensor]


class TalkingHeads(nn.Module):
    """Attention whose logits a Linear mixes between heads, behind what ``fill(logits, keep)`` gives."""

    def __init__(self, fill: Fill) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mix = nn.Linear(HEADS, HEADS)
            self.mix.weight.data.mul_(0.1).add_(torch.eye(HEADS))
        self.fill = fill

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        logits = self.fill(q @ k.mT / math.sqrt(q.shape[-1]), keep[:, None, None])
        logits = self.mix(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def batch(rows: int = 32, hidden: float = 0.3, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keep = (torch.rand(rows, TOKENS, generator=generator) >= hidden).float()
    keep[:, 0] = 1
    return {"x": 2 * torch.randn(rows, TOKENS, WIDTH, generator=generator), "keep": keep}


def written(logits: Tensor, keep: Tensor) -> Tensor:
    logits = logits.clone()
    logits[(keep < 0.5).expand_as(logits)] = -1e4
    return logits


def causal(logits: Tensor, fill: float = -1e9) -> Tensor:
    return torch.full(logits.shape[-2:], fill).triu(1)


FILLS: dict[str, Fill] = {
    "masked_fill": lambda logits, keep: logits.masked_fill(keep < 0.5, -1e4),
    "masked_fill of little": lambda logits, keep: logits.masked_fill(keep < 0.5, -100.0),
    "masked_fill of a tensor": lambda logits, keep: logits.masked_fill(keep < 0.5, torch.tensor(-1e4)),
    "where": lambda logits, keep: torch.where(keep > 0.5, logits, -1e9),
    "where of a tensor": lambda logits, keep: torch.where(keep > 0.5, logits, torch.tensor(-1e4)),
    "boolean added": lambda logits, keep: logits + (keep < 0.5) * -1e4,
    "alpha": lambda logits, keep: torch.add(logits, (keep < 0.5).float(), alpha=-1e4),
    "one minus mask added": lambda logits, keep: logits + (1 - keep) * -1e4,
    "one minus mask of the least float": lambda logits, keep: logits + (1.0 - keep) * torch.finfo(torch.float32).min / 4,
    "subtracted": lambda logits, keep: logits - (keep < 0.5).float() * 1e4,
    "product and difference": lambda logits, keep: logits * keep - 1e4 * (1 - keep),
    "zeros filled": lambda logits, keep: logits + torch.zeros_like(logits).masked_fill(keep < 0.5, -1e4),
    "logarithm": lambda logits, keep: logits + 100 * torch.log(keep + 1e-6),
    "written": written,
    "causal constant": lambda logits, keep: logits + causal(logits),
    "of two masks": lambda logits, keep: logits + (1 - keep) * -1e4 + causal(logits, -1e4),
    "scaled": lambda logits, keep: logits.masked_fill(keep < 0.5, -1e4) * 0.5,
    "bounded from above": lambda logits, keep: logits.masked_fill(keep < 0.5, -1e4).clamp(max=30),
}


def reasons(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, str | None]:
    """Returns for each product why it stays float, None where it does not; by operator and path."""
    graph = trace(model.eval(), (), inputs)
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    plans = [plan for node in graph.graph.nodes if isinstance(plan := get_plan(node), LayerPlan | Declined)]
    return {f"{plan.kind} {plan.path}": plan.reason if isinstance(plan, Declined) else None for plan in plans}


def decibels(expected: Tensor, found: Tensor) -> float:
    return 10 * math.log10(expected.square().sum() / (found - expected).square().sum())


@pytest.mark.parametrize("form", FILLS)
def test_a_layer_behind_a_fill_stays_float(form: str) -> None:
    found = reasons(TalkingHeads(FILLS[form]), batch())
    reason = found.pop("linear mix")
    assert reason is not None
    assert reason.startswith("a mask fills -")
    assert "mask behind it" in reason
    assert {kind for kind, reason in found.items() if reason is None} == {"linear qkv", "linear out", "matmul "}
    assert [reason for kind, reason in found.items() if kind.startswith("linear")] == [None, None]


@pytest.mark.parametrize("form", ["masked_fill", "boolean added", "written", "causal constant"])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_what_is_not_masked_is_as_exact_as_without_a_mask(form: str, hidden: float) -> None:
    """Also if nothing is masked while calibrating: a fitted range would clip the fills, which then mask nothing."""
    model, others = TalkingHeads(FILLS[form]).eval(), batch(8, 0.5, seed=2)
    graph = qpass.quantize_graph(model, [batch(hidden=hidden)], "w8a8", progress=False)
    with torch.no_grad():
        assert decibels(model(**others), graph(**others)) > 25
    (listed,) = [entry for entry in qpass.quantization_report(graph).stayed_float if entry[1] == "mix"]
    assert "a mask fills" in listed[2]


class Added(nn.Module):
    """Talking heads to which the caller gives the mask that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = TalkingHeads(lambda logits, keep: logits + keep)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.heads(x, keep)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_a_mask_that_the_caller_gives_to_be_added(hidden: float) -> None:
    inputs = batch(hidden=hidden)
    inputs["keep"] = (1 - inputs["keep"]) * -1e4
    found = reasons(Added(), inputs)
    assert str(found["linear heads.mix"]).startswith("a mask fills -")
    assert found["linear heads.qkv"] is None


class Net(nn.Module):
    """(B, 9, 32), (B, 9) -> what a Linear gives behind ``make(features, keep)``."""

    def __init__(self, make: Fill) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("table", 100 * torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)))
        self.make = make

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        made: Tensor = self.make(self.first(x), keep[..., None])
        return self.last(made)


NO_FILLS: dict[str, Fill] = {
    "zeros": lambda x, keep: x.masked_fill(keep < 0.5, 0.0),
    "product": lambda x, keep: x * keep,
    "a mean of what is kept": lambda x, keep: (x * keep).sum(1) / keep.sum(1),
    "the largest of what is kept": lambda x, keep: x.masked_fill(keep < 0.5, -1e9).amax(1),
    "max of what is kept": lambda x, keep: x.masked_fill(keep < 0.5, -1e9).max(1).values,
    "rectified": lambda x, keep: x.masked_fill(keep < 0.5, -1e9).relu(),
    "clamped": lambda x, keep: x.masked_fill(keep < 0.5, -1e9).clamp(min=-6),
    "gates": lambda x, keep: x * x.masked_fill(keep < 0.5, -1e9).sigmoid(),
    "weights": lambda x, keep: x.masked_fill(keep < 0.5, -1e9).softmax(1) * x,
    "scaled features": lambda x, keep: x * 100 + 100,
    "normalized": lambda x, keep: torch.nn.functional.layer_norm(x.masked_fill(keep < 0.5, -1e4), (WIDTH,)),
    "a marked token": lambda x, keep: torch.where(keep > 0.5, x, 1.0),
}


@pytest.mark.parametrize("form", NO_FILLS)
def test_others_are_quantized(form: str) -> None:
    assert reasons(Net(NO_FILLS[form]), batch())["linear last"] is None


def test_a_table_of_large_values_is_no_mask() -> None:
    class Positions(Net):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return self.last(self.first(x) + self.table + keep[..., None])

    assert reasons(Positions(NO_FILLS["zeros"]), batch())["linear last"] is None


@pytest.mark.parametrize(
    ("fill", "value"),
    [
        (lambda x, keep: x.masked_fill(keep < 0.5, -1e4), -1e4),
        (lambda x, keep: x.masked_fill(keep < 0.5, 1e4), 1e4),
        (lambda x, keep: -x.masked_fill(keep < 0.5, -1e4), 1e4),
        (lambda x, keep: 3 - 2 * x.masked_fill(keep < 0.5, -1e4), 20003.0),
        (lambda x, keep: x.masked_fill(keep < 0.5, -1e4) / 100, -100.0),
        (lambda x, keep: torch.cat([x, torch.full_like(x, 7e3)], 1), 7e3),
        (lambda x, keep: nn.functional.pad(x, (0, 0, 1, 1), value=-3e3)[:, 1:], -3e3),
        (lambda x, keep: x.masked_fill(keep < 0.5, -1e4).chunk(2, 1)[0], -1e4),
    ],
)
def test_the_value_is_followed(fill: Fill, value: float) -> None:
    graph = trace(Net(fill).eval(), (), batch())
    Canonicalize()(graph)
    (last,) = [node for node in graph.graph.nodes if node.op == "output"]
    (linear,) = last.args[0]
    assert filled_values(graph)[linear.args[0]] == pytest.approx(value)
