"""Rules run to a fixed point; the graph is run once, whatever the number of rounds; declined nodes are noted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
import qpass.passes.canonicalize as canonicalize
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, call_like, calls, record_shapes
from qpass.graph.facts import facts_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import NearMatch
from qpass.passes import Canonicalize
from qpass.passes.canonicalize import check_results


def test_all_rules_together_come_to_rest_and_keep_the_numbers(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    expected = vit(images)
    assert Canonicalize()(graph) is True
    torch.testing.assert_close(graph(images), expected, rtol=1e-5, atol=1e-5)
    gone = (aten.dropout.default, aten.scaled_dot_product_attention.default, aten.unbind.int)
    assert not list(calls(graph, *gone))


class Rounds(nn.Module):
    """An einsum becomes a product with a permuted constant, which is folded in the next round."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,oi->no", x, self.w) + x[:, :1]


@pytest.mark.parametrize("times", [0, 1])
def test_the_graph_runs_once_if_rules_apply_and_not_at_all_otherwise(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, runs, rounds = trace(Rounds().eval(), (torch.rand(3, 4),)), [], []
    if times == 0:
        Canonicalize().run(graph)
    record, finish = canonicalize.record_shapes, canonicalize.finish
    monkeypatch.setattr(canonicalize, "record_shapes", lambda graph: (runs.append(1), record(graph)))
    monkeypatch.setattr(canonicalize, "finish", lambda graph: (rounds.append(1), finish(graph)))
    assert Canonicalize().run(graph) == bool(times)
    assert len(runs) == times
    assert (len(rounds) > 1) == bool(times), "several rounds, one run"


def test_rules_that_do_not_come_to_rest_are_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    @fx_rule(aten.add.Tensor)
    def swap(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
        return call_like(graph_module, node, aten.add.Tensor, *node.args[::-1])

    monkeypatch.setattr(canonicalize, "RULES", (swap,))
    graph = trace(Rounds().eval(), (torch.rand(3, 4),))
    assert list(calls(graph, aten.add.Tensor))
    with pytest.raises(PassError, match=r"does not converge: \['swap'\]"):
        Canonicalize()(graph)


@pytest.mark.parametrize(("key", "value"), [("shape", (9,)), ("dtype", torch.int8)])
def test_a_record_that_is_wrong_is_a_bug(key: str, value: object) -> None:
    graph = trace(nn.Linear(3, 2).eval(), (torch.ones(2, 3),))
    record_shapes(graph)
    check_results(graph, ["a rule"])
    next(calls(graph, aten.linear.default)).meta[key] = value
    with pytest.raises(PassError, match=r"linear.*\['a rule'\]: a rule recorded shape .* expected shape \(2, 2\)"):
        check_results(graph, ["a rule"])


class Normalized(nn.Module):
    """A BatchNorm in front of its Linear, a LayerScale with an offset, and a LayerNorm that a sum reads."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.ln, self.out = nn.LayerNorm(8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.bn(x.transpose(1, 2)).transpose(1, 2)) * self.scale
        y = self.ln(y)
        return self.out(y) + y[..., :4]


def test_what_is_declined_is_in_the_facts_and_in_the_report() -> None:
    x = torch.randn(8, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normalized().eval()
    graph = trace(model, (x,))
    Canonicalize()(graph)
    (norm,), (scale,) = calls(graph, aten.batch_norm.default), calls(graph, aten.mul.Tensor)
    expected = (
        NearMatch("fold_batch_norm", norm.name, "bn", "no Linear or convolution computes its input"),
        NearMatch("fold_channel_scale", scale.name, "", "its factor has shape (3, 1), not one number for each of 8 channels"),
    )
    assert facts_of(graph).declined == expected
    quantized = qpass.quantize_graph(model, [x], {"preset": "w8a8", "fold_layer_norm": "mean"}, progress=False)
    report = qpass.quantization_report(quantized)
    assert report.not_rewritten[:2] == tuple((near.rule, near.path, near.reason) for near in expected)
    ((rule, path, reason),) = report.not_rewritten[2:]
    assert (rule, path) == ("fold_layer_norm", "ln")
    assert "reads it, which is no Linear" in reason
    for text in (str(report), report.to_html()):
        assert "no Linear or convolution computes its input" in text
    assert type(report).from_json(report.to_json()).not_rewritten == report.not_rewritten
    assert facts_of(quantized).declined == (), "the report keeps them"


def test_what_stays_float_for_that_reason_is_listed_once() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return torch.baddbmm(x[:, :3, :3], y, y.transpose(1, 2), alpha=0.5)

    x = torch.randn(8, 3, 8, generator=torch.Generator().manual_seed(0))
    report = qpass.quantization_report(qpass.quantize_graph(Scaled().eval(), [x], "w8a8", progress=False))
    assert report.not_rewritten == ()
    assert ("baddbmm", "", "baddbmm multiplies its product, or what it adds to it, by a factor") in report.stayed_float
