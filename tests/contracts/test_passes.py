"""What every pass must satisfy: stages that join, honest reports, a second run that changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.passes import STAGES, Pass, check_stages
from qpass.passes.fingerprint import fingerprint
from tests.learning import UNCOMPENSATED

LEARNING = {"ranks": [2, 4], "search_steps": 2, "steps": 2, "batch_size": 4}
CONFIGS: tuple[Any, ...] = (
    "w8a8",
    "repq-vit-w4a4",
    {"preset": "aiqvit-w4a4", "reconstruction": LEARNING},
    {"preset": "aiqvit-w4a4", "reconstruction": {**LEARNING, "order": "paper"}},
    {"preset": "w3a4", **UNCOMPENSATED, "weight": {"residual_rank": 4}},
    "w4a4",
)


def build(config: Any, images: Tensor) -> list[Pass]:
    return pipeline(QuantConfig.from_any(config), [ModelInputs((images,), {})])


@pytest.fixture(
    scope="module", params=CONFIGS, ids=["w8a8", "repq-vit", "aiqvit", "aiqvit, paper order", "residual", "closed form"]
)
def stages(request: pytest.FixtureRequest, vit: nn.Module, images: Tensor) -> list[tuple[Pass, fx.GraphModule]]:
    """Each pass of a recipe with a copy of the graph that it made."""
    graph = trace(vit, (images,))
    result = []
    for step in build(request.param, images):
        step(graph)
        result.append((step, copy.deepcopy(graph)))
    return result


@pytest.mark.slow(after=1)
def test_stages_follow_one_another(stages: list[tuple[Pass, fx.GraphModule]]) -> None:
    assert list(dict.fromkeys(step.gives for step, _ in stages)) == list(STAGES[1:])
    for step, graph in stages:
        assert facts_of(graph).stage == step.gives


def test_a_second_run_changes_nothing(stages: list[tuple[Pass, fx.GraphModule]], images: Tensor) -> None:
    for step, graph in stages:
        graph = copy.deepcopy(graph)
        before, output = fingerprint(graph), graph(images)
        tensors = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
        assert step.run(graph) is False, type(step).__name__
        assert fingerprint(graph) == before, type(step).__name__
        assert graph.state_dict().keys() == tensors.keys(), type(step).__name__
        for name, tensor in graph.state_dict().items():
            assert torch.equal(tensor, tensors[name]), f"{type(step).__name__}: {name}"
        assert torch.equal(graph(images), output), type(step).__name__


def test_passes_before_the_quantizers_keep_the_numbers(
    stages: list[tuple[Pass, fx.GraphModule]], vit: nn.Module, images: Tensor
) -> None:
    expected = vit.double()(images.double())
    vit.float()
    for step, graph in stages:
        if STAGES.index(step.gives) <= STAGES.index("calibrated"):
            torch.testing.assert_close(graph(images).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_pass_refuses_a_graph_at_another_stage(vit: nn.Module, images: Tensor) -> None:
    *_, freeze = build("w8a8", images)
    with pytest.raises(PassError, match="Freeze: the graph is at stage 'traced'; expected 'fitted'"):
        freeze(trace(vit, (images,)))


def test_a_list_that_does_not_join_is_refused(images: Tensor) -> None:
    first, _, third, *_ = build("w8a8", images)
    with pytest.raises(PassError, match="Canonicalize -> Calibrate: gives 'canonical', but the next pass takes 'annotated'"):
        check_stages([first, third])


def test_a_pass_that_hides_a_change_is_caught(vit: nn.Module, images: Tensor) -> None:
    class Liar(Pass):
        takes, gives = "traced", "canonical"

        def run(self, graph_module: fx.GraphModule) -> bool:
            node = next(n for n in graph_module.graph.nodes if n.op == "call_function" and len(n.users) == 1)
            node.replace_all_uses_with(node.args[0])
            return False

    with pytest.raises(PassError, match="reports no change and changed the graph") as caught:
        Liar()(trace(vit, (images,)))
    assert caught.value.__notes__ == ["in the pass Liar"]


@pytest.mark.parametrize("write", ["in place", "replaced"])
def test_a_pass_that_hides_a_changed_weight_is_caught(write: str, vit: nn.Module, images: Tensor) -> None:
    class Liar(Pass):
        takes, gives = "traced", "traced"

        def run(self, graph_module: fx.GraphModule) -> bool:
            name, weight = next(graph_module.named_parameters())
            if write == "in place":
                weight.mul_(2)
            else:
                owner, _, leaf = name.rpartition(".")
                setattr(graph_module.get_submodule(owner), leaf, nn.Parameter(weight.clone(), requires_grad=False))
            return False

    with pytest.raises(PassError, match="reports no change and changed the graph"):
        Liar()(trace(vit, (images,)))


def test_an_error_in_a_pass_names_the_pass(vit: nn.Module, images: Tensor) -> None:
    class Broken(Pass):
        takes, gives = "traced", "canonical"

        def run(self, graph_module: fx.GraphModule) -> bool:
            return bool(graph_module.nothing_of_that_name)

    with pytest.raises(AttributeError) as caught:
        Broken()(trace(vit, (images,)))
    assert caught.value.__notes__ == ["in the pass Broken"]
