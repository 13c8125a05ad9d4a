from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import ConfigError, TraceError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import module_path
from qpass.graph.facts import facts_of
from tests.models import Branching, DictModel


def test_graph_equals_the_model_at_any_batch(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    assert facts_of(graph).dynamic_batch
    for batch in (1, 2, 5):
        torch.testing.assert_close(graph(images[:batch]), vit(images[:batch]))


def test_the_model_is_left_as_it_was(vit: nn.Module, images: Tensor) -> None:
    model = copy.deepcopy(vit).train()
    model.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = trace(model, (images,))
    assert model.training
    assert not model.blocks[0].training
    assert model.blocks[1].training
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_writes_is_left_as_it_was() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(4))

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            self.calls += 1
            self.last = x.mean(0)
            shift += 1
            return torch.nn.functional.dropout(x, 0.5, True) * 0 + x.mul_(2) + shift

    model, x, shift, state = Counter(), torch.randn(3, 4), torch.zeros(4), torch.get_rng_state()
    inputs, last = (x.clone(), shift.clone()), model.last
    trace(model, (x, shift))
    assert model.training
    assert model.last is last
    assert torch.equal(model.last, torch.zeros(4))
    assert torch.equal(model.calls, torch.zeros(1))
    assert all(torch.equal(a, b) for a, b in zip((x, shift), inputs, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_caches_that_a_run_fills_are_emptied_again() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.places = nn.Linear(4, 4), None
            self.register_buffer("scale", None)

        def forward(self, x: Tensor) -> Tensor:
            if self.places is None:
                self.places, self.scale = torch.arange(4.0), torch.ones(4)
            self.rows = x.shape[0]
            return self.layer(x * self.scale) + self.places

    model = Cached()
    x = torch.randn(3, 4)
    graph = trace(model, (x,))
    assert model.places is None
    assert model.scale is None
    assert not hasattr(model, "rows")
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    assert torch.allclose(graph(x), model(x))


def test_nodes_know_their_module(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    paths = {module_path(node) for node in graph.graph.nodes if "linear" in node.name and node.op == "call_function"}
    assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"} <= paths


def test_inputs_by_name_and_dict_outputs() -> None:
    model, x = DictModel().eval(), torch.randn(3, 8)
    graph = trace(model, (), {"values": x, "scale": torch.ones(3, 1)})
    output = graph(values=x[:1], scale=torch.ones(1, 1) * 2)
    assert set(output) == {"logits", "hidden"}
    torch.testing.assert_close(output["logits"], model(x[:1])["logits"] * 2)


def test_a_batch_that_cannot_be_dynamic_is_fixed_with_a_warning() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(int(x.shape[0]), -1) @ torch.ones(int(x.numel()) // int(x.shape[0]), 2).to(x) * len(list(x))

    with pytest.warns(UserWarning, match="the batch is fixed at 3, it cannot be dynamic"):
        graph = trace(Stubborn().eval(), (torch.randn(3, 4),))
    assert not facts_of(graph).dynamic_batch


def test_control_flow_on_data_is_named_with_a_way_out() -> None:
    with pytest.raises(
        TraceError, match=r"Branching, module \(itself\), models.py:\d+: torch.export cannot capture.*submodules="
    ):
        trace(Branching().eval(), (torch.randn(2, 8),))


def test_inputs_that_do_not_fit_are_named(vit: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"VisionTransformer: the model does not run on inputs of shape \[\(4, 1, 5, 5\)\]"):
        trace(vit, (torch.randn(4, 1, 5, 5),))


def named(name: str) -> nn.Module:
    """Returns a model whose forward has an input of this name."""
    scope: dict[str, Any] = {"nn": nn}
    exec(f"class Named(nn.Linear):\n def forward(self, {name}): return super(Named, self).forward({name})", scope)
    model: nn.Module = scope["Named"](8, 8)
    return model.eval()


@pytest.mark.parametrize("name", ["torch", "operator", "math", "größe", "µ"])
def test_inputs_whose_names_cannot_stand_in_code_are_refused(name: str) -> None:
    with pytest.raises(TraceError, match=r"Named: forward has inputs named .*wrap the model"):
        qpass.quantize_graph(named(name), [torch.randn(4, 8)], progress=False)


def test_inputs_that_are_missing_are_named() -> None:
    model, x = Rows(torch.add).eval(), torch.randn(4, 8)
    with pytest.raises(TraceError, match=r"Rows: .* missing a required argument: 'y'.* forward\(x.*, y.*as a dict"):
        qpass.quantize_graph(model, [(x, x)], progress=False)


class Rows(nn.Module):
    """Two inputs, put together in a way that ties their rows or does not."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(8, 6), nn.Linear(8, 6), join

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.join(self.a(x), self.b(y))


@pytest.mark.parametrize(
    ("join", "rows", "dims"),
    [
        (lambda a, b: a @ b.T, (2, 2), ["batch", "y_batch"]),
        (lambda a, b: a @ b.T, (1, 3), ["batch", "y_batch"]),
        (lambda a, b: a @ b.T, (3, 1), ["batch", "y_batch"]),
        (lambda a, b: torch.cat([a, b]), (5, 5), ["batch", "y_batch"]),
        (lambda a, b: a + b, (3, 3), ["batch", "batch"]),
        (lambda a, b: torch.cat([a, b], 1), (2, 2), ["batch", "batch"]),
        (lambda a, b: torch.stack([a, b]).mean(0), (4, 4), ["batch", "batch"]),
        (lambda a, b: a + b[:1], (3, 3), ["batch", "y_batch"]),
        (lambda a, b: a + b, (3, 1), ["batch", 1]),
    ],
)
def test_rows_are_tied_where_the_model_ties_them(
    join: Callable[[Tensor, Tensor], Tensor], rows: tuple[int, int], dims: object
) -> None:
    torch.manual_seed(0)
    model = Rows(join).eval()
    graph = trace(model, (torch.randn(rows[0], 8), torch.randn(rows[1], 8)))
    assert [sizes[0] for sizes in facts_of(graph).dims] == dims
    for first, second in ((1, 1), (4, 4), (3, 7), (6, 2)):
        if dims[0] == dims[1]:
            second = first
        x, y = torch.randn(first, 8), torch.randn(second if dims[1] != 1 else 1, 8)
        torch.testing.assert_close(graph(x, y), model(x, y))


def test_a_table_with_as_many_rows_as_the_batch_stays_fixed() -> None:
    model = Rows(lambda a, b: a.unsqueeze(1) + b).eval()
    table = torch.randn(5, 8)

    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.mix = model, nn.Linear(5, 2)

        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return self.mix(self.rows(x, table).transpose(1, 2))

    tabled = Tabled().eval()
    graph = trace(tabled, (torch.randn(5, 8), table))
    assert facts_of(graph).dims == [("batch", 8), (5, 8)]
    torch.testing.assert_close(graph(torch.ones(3, 8), table), tabled(torch.ones(3, 8), table))


class Line(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.cls, self.run = nn.Linear(8, 8), nn.Parameter(torch.zeros(1, 1, 8)), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def with_class_token(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([self.cls.expand(len(x), -1, -1), self.layer(x)], 1)  # LINE


def in_a_loop(self: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([self.layer(row) for row in x])  # LINE


def by_range(self: nn.Module, x: Tensor) -> Tensor:
    return self.layer(x) * torch.tensor(list(range(x.shape[0]))).view(-1, 1, 1)  # LINE


def in_pairs(self: nn.Module, x: Tensor) -> Tensor:
    return self.layer(x).reshape(-1, 2, 4, 8)


def in_fours(self: nn.Module, x: Tensor) -> Tensor:
    return self.layer(x).view(4, 1, 4, 8)


@pytest.mark.parametrize("package", [torch, qpass])
def test_lines_of_packages_whose_names_begin_alike_are_named(package: ModuleType) -> None:
    """torchvision lies beside torch."""
    file = f"{Path(str(package.__file__)).parent}vision/{package.__name__}.py"
    names: dict[str, Any] = {"torch": torch}
    exec(compile("run = lambda self, x: torch.stack([self.layer(row) for row in x])", file, "exec"), names)
    with pytest.warns(UserWarning, match=rf"fixed at 16, .*: {package.__name__}\.py:1 "):
        trace(Line(names["run"]).eval(), (torch.randn(16, 4, 8),))


@pytest.mark.parametrize("run", [with_class_token, in_a_loop, by_range])
def test_the_line_that_fixes_the_batch_is_named(run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    lines = inspect.getsourcelines(run)
    number = next(lines[1] + place for place, line in enumerate(lines[0]) if "# LINE" in line)
    message = rf"Line: the batch is fixed at 16, it cannot be dynamic: test_trace.py:{number} .*write x.shape\[0\]"
    model, x = Line(run).eval(), torch.randn(16, 4, 8)
    with pytest.warns(UserWarning, match=message):
        graph = trace(model, (x,))
    assert facts_of(graph).dims == [(16, 4, 8)]
    torch.testing.assert_close(graph(x), model(x))


@pytest.mark.parametrize(
    ("run", "rows", "message"), [(in_pairs, 16, r"x\.size\(\)\[0\]"), (in_fours, 4, "takes the number of rows")]
)
def test_batches_that_must_fulfil_something_are_fixed(run: Callable[..., Tensor], rows: int, message: str) -> None:
    """A graph of an even batch would compute, or not, whatever else it is given; one that takes its own rows only runs at all."""
    with pytest.warns(UserWarning, match=rf"the batch is fixed at {rows}, .*{message}"):
        graph = trace(Line(run).eval(), (torch.randn(rows, 4, 8),))
    assert not facts_of(graph).dynamic_batch


def test_shapes_that_are_given_are_kept_by_name() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor, **more: Tensor) -> Tensor:
            return x.mean(1) @ more["texts"].mean(1).T

    model, call = Tokens().eval(), ((torch.randn(2, 5, 8),), {"texts": torch.randn(3, 7, 8)})
    shapes = {"x": {0: "images", 1: torch.export.Dim("patches")}, "texts": {0: "labels", 1: torch.export.Dim.AUTO}}
    for given in (shapes, {"x": shapes["x"], "more": {"texts": shapes["texts"]}}, (shapes["x"], {"texts": shapes["texts"]})):
        graph = trace(model, *call, dynamic_shapes=given)
        assert facts_of(graph).dims == [("images", "patches", 8), ("labels", "texts_1", 8)]
    other = torch.randn(4, 9, 8), torch.randn(1, 2, 8)
    torch.testing.assert_close(graph(other[0], texts=other[1]), model(other[0], texts=other[1]))


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({"y": {0: "batch"}}, ConfigError, "dynamic_shapes: no input 'y'; valid: x"),
        ({"x": {5: "batch"}}, ConfigError, "dynamic_shapes, x: got .* for a tensor of 3 dims"),
        ({"x": {0: 2.5}}, ConfigError, "dynamic_shapes, x: got"),
        (5, ConfigError, "dynamic_shapes: got a int; expected a mapping"),
        ({"x": {0: "images"}}, TraceError, "the model does not leave open what dynamic_shapes opens"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trace(Line(with_class_token).eval(), (torch.randn(3, 4, 8),), dynamic_shapes=shapes)


def test_what_is_kept_is_a_copy() -> None:
    x = torch.ones(4, 8)
    for model in (nn.Linear(8, 8), Line(in_fours)):
        given = x if isinstance(model, nn.Linear) else torch.ones(4, 4, 8)
        graph = trace(model.eval(), (given,))
        given.zero_()
        assert facts_of(graph).example[0][0].min() == 1


@pytest.mark.parametrize("outputs", [None, 1, (), {"loss": None}])
def test_a_forward_without_a_tensor_to_return_is_refused(outputs: object) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> object:
            self.layer(x)
            return outputs

    with pytest.raises(TraceError, match=r"Returns: its forward returns .*, which holds no tensor"):
        trace(Returns(), (torch.zeros(2, 4),))
