"""The graph beside the caller's model: what is found, what is named, and what is not refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass import SourceError
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, fetch, module_path
from qpass.graph.facts import facts_of
from qpass.graph.source_check import Source, SourceCheck
from qpass.graph.source_check.output_error import output_error
from qpass.graph.source_check.source import LEAST_BOUND, quantizers_off
from qpass.passes import Canonicalize, FoldLayerNorm, NarrowRows, Pass, RotateHeads
from qpass.quantizers import Uniform
from qpass.runtime.records import record
from qpass.runtime.storage import Storage
from tests.live_bytes import LiveBytes
from tests.writing_programs import Call


def scale_one_weight(graph_module: fx.GraphModule, factor: float = 1.001) -> None:
    """The fault of a pass: a weight of the second block is off by a thousandth."""
    for linear in calls(graph_module, aten.linear.default):
        if module_path(linear) == "blocks.1.mlp.fc1":
            with torch.no_grad():
                fetch(graph_module, str(linear.args[1].target)).mul_(factor)


def source_of(model: nn.Module, x: Tensor) -> tuple[Source, fx.GraphModule]:
    batches = [ModelInputs((x,), {})]
    graph = trace(model, (x,))
    return Source(model, graph, batches), graph


def test_what_was_done_is_kept_and_travels(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    graph = qpass.quantize_graph(vit, [images], "w4a8", progress=False)
    check = facts_of(graph).source_check
    assert check.passes == (
        "trace",
        "Canonicalize",
        "RotateResidual",
        "RotateHeads",
        "InsertQuantizers",
        "FoldLayerNorm",
        "NarrowRows",
    )
    assert 0 < check.error <= check.bound < 1e-3
    assert check.samples == 4
    report = qpass.quantization_report(graph)
    assert str(check) in str(report)
    assert str(check) in report.to_html()
    assert type(report).from_json(report.to_json()) == report
    again = qpass.load(qpass.save(graph, tmp_path / "graph.safetensors"))
    assert facts_of(again).source_check == check


@pytest.mark.parametrize("kind", [Canonicalize, RotateHeads, NarrowRows, FoldLayerNorm])
def test_a_pass_that_breaks_the_network_is_named_with_the_node(
    kind: type[Pass], vit: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Pass, graph_module: fx.GraphModule) -> bool:
        changed = run(self, graph_module)
        if kind in (FoldLayerNorm, NarrowRows):
            floats = self.reference.graph or graph_module  # type: ignore[attr-defined]
            layer = next(module for name, module in floats.named_modules() if name.startswith("blocks_1_mlp_fc1"))
            with torch.no_grad():
                layer.weight.mul_(1.001)
        else:
            scale_one_weight(graph_module)
        return changed

    run = kind.run
    monkeypatch.setattr(kind, "run", broken)
    with pytest.raises(
        SourceError, match=rf"blocks\.1\.(mlp|attn).*: after {kind.__name__} the float graph differs from the given"
    ):
        qpass.quantize_graph(vit, [images], "w4a8", progress=False)


def test_parts_are_compared_with_their_modules(vit: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nn.Sequential(vit, nn.Softmax(-1))
    model = qpass.quantize_graph(whole, [images], "w8a8", submodules=("0",), progress=False)
    assert facts_of(model.get_submodule("0")).source_check.passes[0] == "trace"
    run = Canonicalize.run
    monkeypatch.setattr(Canonicalize, "run", lambda self, graph: (run(self, graph), scale_one_weight(graph))[0])
    with pytest.raises(SourceError, match="after Canonicalize"):
        qpass.quantize_graph(whole, [images], "w8a8", submodules=("0",), progress=False)


def test_a_graph_that_accumulates_is_found_on_the_second_call() -> None:
    source, graph = source_of(Call(lambda m, x: x * m.gain, gain=torch.ones(3)).eval(), torch.randn(4, 3))
    source.check(graph, "trace")
    gain = next(node for node in graph.graph.nodes if node.op == "get_attr")
    (product,) = calls(graph, aten.mul.Tensor)
    with graph.graph.inserting_after(product):
        graph.graph.call_function(aten.add_.Scalar, (gain, 0.01))
    graph.recompile()
    with pytest.raises(SourceError, match=r"when it is called again: by [1-9].* of an output's size"):
        source.check(graph, "a pass")


def test_a_graph_that_holds_for_one_batch_is_found_on_the_other() -> None:
    source, graph = source_of(Call(lambda m, x: x - x.mean(0)).eval(), torch.randn(4, 3))
    (mean,) = calls(graph, aten.mean.dim)
    total = graph.graph.create_node("call_function", aten.sum.dim_IntList, (mean.args[0], [0]))
    mean.append(total)
    with graph.graph.inserting_after(total):
        third = graph.graph.call_function(aten.div.Tensor, (total, 3))
    mean.replace_all_uses_with(third)
    graph.recompile()
    with pytest.raises(SourceError, match="on a batch of 1"):
        source.check(graph, "a pass")


def test_outputs_of_modules_lie_in_the_storage(vit: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpass.runtime.storage.SMALL_BYTES", 1)
    graph, batches = trace(vit, (images,)), [ModelInputs((images[:3],), {})]
    kept = []
    for storage in (None, Storage(0)):
        with LiveBytes() as live:
            source = Source(vit, graph, batches, storage)
            kept.append(live.now)
        scale_one_weight(copied := copy.deepcopy(graph))
        with pytest.raises(SourceError, match=r"blocks\.1\.mlp\.fc1"):
            source.check(copied, "a pass")
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("samples", [1, 2])
def test_batches_of_one_row_are_compared_in_another_size_too(samples: int) -> None:
    model, batches = Call(lambda m, x: x - x.sum(0)).eval(), [ModelInputs((torch.randn(1, 3),), {})] * samples
    graph = trace(model, *batches[0])
    source = Source(model, graph, batches)
    source.check(graph, "trace")
    (total,) = calls(graph, aten.sum.dim_IntList)
    total.replace_all_uses_with(total.args[0])  # right for one row
    graph.recompile()
    with pytest.raises(SourceError, match="on a batch of 2"):
        source.check(graph, "a pass")


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.where(x > 0.5, float("-inf"), x),
        lambda m, x: (x - 10).log(),
        lambda m, x: {"label": x.argmax(-1), "rows": x.shape[0], "scale": 2.0, "none": None},
        lambda m, x: (x > 0, torch.zeros(x.shape[0], 2)),
        lambda m, x: x + 0 * nn.functional.dropout(x, 0.5, training=True),
    ],
    ids=["-inf", "NaN", "numbers", "truth values", "random numbers that change nothing"],
)
def test_outputs_of_every_kind(function: Callable[..., object]) -> None:
    source, graph = source_of(Call(function).eval(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    source.check(graph, "trace")
    assert facts_of(graph).source_check.error == 0


def test_nan_in_another_place_is_a_difference() -> None:
    source, graph = source_of(Call(lambda m, x: x.abs().log()).eval(), torch.ones(4, 3))
    for node in calls(graph, aten.abs.default):
        node.target = aten.neg.default
    graph.recompile()
    with pytest.raises(SourceError, match="by inf"):
        source.check(graph, "a pass")


def test_a_network_whose_choices_hang_on_roundings_is_not_refused() -> None:
    """Canonical attention rounds otherwise, and other rows are chosen."""

    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            chosen = (y.sum(-1) * 1e6).sin().topk(3, -1).indices
            return torch.gather(y, 1, chosen[..., None].expand(-1, -1, 16))

    model, x = Chooses().eval(), torch.randn(4, 40, 16, generator=torch.Generator().manual_seed(1))
    source, graph = source_of(model, x)
    Canonicalize()(graph)
    source.check(graph, "Canonicalize")
    check = facts_of(graph).source_check
    assert check.bound > 1
    assert "not informative" in str(check)


def test_another_shape_is_refused_however_coarse_the_bound_is() -> None:
    """Roundings decide where this network is infinite: every error is within its bound."""
    source, graph = source_of(
        Call(lambda m, x: torch.where((x * 1e9).sin() > 0, float("-inf"), x)).eval(), torch.rand(4, 50) + 1
    )
    output = next(node for node in graph.graph.nodes if node.op == "output")
    (where,) = output.all_input_nodes
    with graph.graph.inserting_before(output):
        wide = graph.graph.call_function(aten.cat.default, ([where, where], 1))
    output.replace_input_with(where, wide)
    graph.recompile()
    with pytest.raises(SourceError, match="by inf"):
        source.check(graph, "a pass")


def test_a_model_with_state_is_refused() -> None:
    class Calls(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(SourceError, match="Calls: the model gives other outputs when it is called again"):
        source_of(Calls().eval(), torch.randn(4, 3))


@pytest.mark.parametrize("draw", [lambda y: torch.dropout(y, 0.5, True), lambda y: y + torch.randn_like(y)])
def test_a_model_that_draws_random_numbers_is_refused(draw: Callable[[Tensor], Tensor]) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return draw(self.one(x))

    with pytest.raises(SourceError, match=r"Random: the model gives other outputs when it is called again.*F\.dropout"):
        source_of(Random().eval(), torch.randn(4, 3))


def test_weights_that_are_made_in_the_first_call_are_named_as_a_cause() -> None:
    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "weight"):
                self.weight = nn.Parameter(torch.randn(3, 3))
            return x @ self.weight

    source, graph = source_of(Late().eval(), torch.randn(4, 3))
    with pytest.raises(SourceError, match=r"when it is called again.*call the model once before"):
        source.check(graph, "trace")


def test_modules_inside_a_branch_are_run() -> None:
    """Branches of cond are captured as graphs even where the model just runs, and may write nothing then."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.cond(x.sum() > 0, lambda t: self.one(t), lambda t: t + 1, (x,)))

    source, graph = source_of(Branch().eval(), torch.randn(4, 3))
    source.check(graph, "trace")


def test_the_model_is_left_as_it_was(vit: nn.Module, images: Tensor) -> None:
    model = copy.deepcopy(vit).train()
    state, before = torch.get_rng_state(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = images.clone()
    source, graph = source_of(model, batch)
    source.check(graph, "trace")
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_plain_data_comes_back() -> None:
    check = SourceCheck(samples=4, error=1e-6, bound=1e-5, passes=("trace",))
    assert record(SourceCheck, {"samples": 4, "error": 1e-6, "bound": 1e-5, "passes": ["trace"]}, "check") == check


def test_an_output_that_is_nan_throughout_is_said_to_prove_nothing(tmp_path: Path) -> None:
    class Blind(nn.Module):
        """A second output that is a mean over nothing, as masks make it that leave none."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.layer(x)
            return y, y.masked_fill(y == y, float("-inf")).softmax(-1)

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="Blind: an output of the model is NaN or infinite throughout"):
        graph = qpass.quantize_graph(Blind().eval(), [x], "w8a8", progress=False)
    check = facts_of(graph).source_check
    assert not check.informative
    assert "not informative: an output is NaN or infinite throughout" in str(qpass.quantization_report(graph))
    verified = qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x)
    assert verified.verdict == "layers proven, whole run and comparison with the model not informative"


def test_an_output_that_is_infinite_in_places_proves_something() -> None:
    source, graph = source_of(Call(lambda m, x: x.masked_fill(x > 0, float("-inf"))).eval(), torch.randn(4, 3))
    source.check(graph, "trace")
    assert facts_of(graph).source_check.informative


@pytest.mark.parametrize("dim", [1, -1])
def test_a_large_channel_hides_no_error_in_a_small_one(dim: int) -> None:
    """Boxes in pixels beside scores: the scores were allowed to be off by some hundredths."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.box, self.score = nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([640 * self.box(x).sigmoid(), self.score(x).sigmoid()], -1).transpose(-1, dim)

    model = Detector().eval()
    source, graph = source_of(model, torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(1)))
    source.check(graph, "trace")
    assert facts_of(graph).source_check.bound == LEAST_BOUND
    with torch.no_grad():
        next(p for name, p in graph.named_parameters() if "score" in name and p.dim() == 2)[0] *= 1.01
    with pytest.raises(SourceError, match=r"after a pass .*differs from the given model"):
        source.check(graph, "a pass")


def test_a_single_value_near_zero_is_no_channel() -> None:
    """Of one row, every logit would be a channel of its own; the difference is one of roundings."""
    expected = torch.tensor([[1.0, -0.5, 1e-4, 2.0]])
    found = expected + 1e-7
    assert output_error(found, expected, channels=True) == output_error(found, expected) < LEAST_BOUND


def test_a_channel_of_roundings_alone_is_no_matter() -> None:
    def function(module: nn.Module, x: Tensor) -> Tensor:
        y = x.exp().sin()
        return torch.stack([y, y * 3 / 3 - y], -1)

    source, graph = source_of(Call(function).eval(), torch.randn(4, 50, generator=torch.Generator().manual_seed(0)))
    for node in calls(graph, aten.sin.default):  # another order of roundings
        with graph.graph.inserting_after(node):
            moved = graph.graph.call_function(aten.mul.Tensor, (node, 1 + 2.0**-23))
        node.replace_all_uses_with(moved, delete_user_cb=lambda user, moved=moved: user is not moved)
    graph.recompile()
    source.check(graph, "a pass")
    assert facts_of(graph).source_check.informative


def scaled(graph: fx.GraphModule, factor: float) -> fx.GraphModule:
    """Returns a copy whose only product is multiplied by a factor."""
    graph = copy.deepcopy(graph)
    (product,) = calls(graph, aten.mul.Tensor)
    with graph.graph.inserting_after(product):
        changed = graph.graph.call_function(aten.mul.Tensor, (product, factor))
    product.replace_all_uses_with(changed, delete_user_cb=lambda user: user is not changed)
    graph.recompile()
    return graph


def test_the_error_is_the_largest_of_all_steps() -> None:
    source, graph = source_of(Call(lambda m, x: x * 3.0).eval(), torch.randn(4, 3))
    source.check(scaled(graph, 1 + 1e-5), "one")
    source.check(graph, "two")
    check = facts_of(graph).source_check
    assert 1e-5 < check.error < LEAST_BOUND, "a factor changes large values by more than their mean square"
    assert check.passes == ("one", "two")


def test_the_reference_is_compared_in_place_of_the_graph() -> None:
    source, graph = source_of(Call(lambda m, x: x * 3.0).eval(), torch.randn(4, 3))
    wrong = scaled(graph, 1.01)
    source.check(wrong, "a pass", graph)
    assert facts_of(wrong).source_check.passes == ("a pass",)
    with pytest.raises(SourceError):
        source.check(graph, "a pass", wrong)


def test_roundings_are_simulated_on_the_other_batch_too() -> None:
    """Only the last row, which the batch of one row holds, lies on the edge of a choice."""
    x = torch.tensor([[1.0], [2.0], [5.0], [3.0]])
    source, graph = source_of(Call(lambda m, x: torch.where(x * 3.0 > 9.0, 1.5, 1.0) * x).eval(), x)
    first, _ = calls(graph, aten.mul.Tensor)
    with graph.graph.inserting_after(first):
        rounded = graph.graph.call_function(aten.mul.Tensor, (first, 1 + 2.0**-22))
    first.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
    graph.recompile()
    source.check(graph, "a pass")
    assert facts_of(graph).source_check.error == pytest.approx(0.5)


def test_quantizers_that_were_off_stay_off() -> None:
    network = nn.Sequential(Uniform(8), Uniform(8))
    network[0].enabled = False
    with quantizers_off(network):
        assert [module.enabled for module in network] == [False, False]
    assert [module.enabled for module in network] == [False, True]


def test_roundings_leave_masks_exact() -> None:
    """A rounding of ``1 - keep`` times the least float would fill everything, and allow any error."""
    keep, x = torch.tensor([[1.0, 1.0, 0.0]]).repeat(4, 1), torch.randn(4, 3)

    def fill(m: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
        return (x + (1 - keep) * torch.finfo(torch.float32).min).softmax(-1)

    model, batches = Call(fill).eval(), [ModelInputs((x, keep), {})]
    graph = trace(model, (x, keep))
    source = Source(model, graph, batches)
    (softmax,) = calls(graph, aten.softmax.int)
    with graph.graph.inserting_after(softmax):
        off = graph.graph.call_function(aten.mul.Tensor, (softmax, 1.001))
    softmax.replace_all_uses_with(off, delete_user_cb=lambda user: user is not off)
    graph.recompile()
    with pytest.raises(SourceError, match="after a pass"):
        source.check(graph, "a pass")
