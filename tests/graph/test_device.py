from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

import qpass
from qpass.graph.device import on_cpu, to_device
from qpass.graph.edit import device_of, example_inputs


class _MakesTensors(nn.Module):
    """Makes a tensor in its forward, as decoders do for their queries; the graph names the device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.zeros(x.shape[0], 6, device=x.device)


def named_devices(graph_module: fx.GraphModule) -> set[torch.device]:
    arguments = [value for node in graph_module.graph.nodes for value in (*node.args, *node.kwargs.values())]
    return {value for value in arguments if isinstance(value, torch.device)}


def test_a_moved_graph_names_the_new_device_everywhere() -> None:
    graph = qpass.quantize_graph(_MakesTensors().eval(), [torch.randn(4, 6)], "w8a8", progress=False)
    moved = to_device(copy.deepcopy(graph), "meta")
    (example,), _ = example_inputs(moved)
    assert device_of(moved).type == example.device.type == "meta"
    assert named_devices(graph) == {torch.device("cpu")}
    assert named_devices(moved) == {torch.device("meta")}


def test_a_graph_on_the_cpu_is_not_copied() -> None:
    graph = qpass.quantize_graph(_MakesTensors().eval(), [torch.randn(4, 6)], "w8a8", progress=False)
    assert on_cpu(graph) is graph
