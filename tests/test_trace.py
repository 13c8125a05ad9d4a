from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qpass.errors import TraceError
from qpass.graph import info, module_path
from qpass.trace import trace
from tests.models import Branching, DictModel


def test_graph_equals_the_model_at_any_batch(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    assert info(graph)["dynamic_batch"]
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
    assert not info(graph)["dynamic_batch"]


def test_control_flow_on_data_is_named_with_a_way_out() -> None:
    with pytest.raises(
        TraceError, match=r"Branching, module \(itself\), models.py:\d+: torch.export cannot capture.*submodules="
    ):
        trace(Branching().eval(), (torch.randn(2, 8),))


def test_inputs_that_do_not_fit_are_named(vit: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"VisionTransformer: the model does not run on inputs of shape \[\(2, 1, 5, 5\)\]"):
        trace(vit, (torch.randn(4, 1, 5, 5),))
