"""What every pass must satisfy: stages that join, honest reports, a second run that changes nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.graph.facts import facts_of, update_facts
from qpass.passes import (
    STAGES,
    Pass,
    RidgeAndGPTQ,
    RotateHeads,
    RotateResidual,
)
from qpass.passes.fingerprint import fingerprint
from qpass.reconstruction import Reconstruct
from tests.learning import UNCOMPENSATED

LEARNING = {"ranks": [2, 4], "search_steps": 2, "steps": 2, "batch_size": 4}
CONFIGS: dict[str, Any] = {
    "w8a8": "w8a8",
    "repq-vit": "repq-vit-w4a4",
    "aiqvit": {"preset": "aiqvit-w4a4", "reconstruction": LEARNING},
    "aiqvit, paper order": {"preset": "aiqvit-w4a4", "reconstruction": {**LEARNING, "order": "paper"}},
    "three stages": {"preset": "ias-vit-w4a4", "reconstruction": {"steps": 2, "batch_size": 4}},
    "residual": {"preset": "w3a4", **UNCOMPENSATED, "weight": {"residual_rank": 4}},
    "closed form": "mixed-w4a5",
}
#: Passes that would do their work again, if they had not left a mark in the facts of the graph. (So would AllocateBits, but for
#: the statistics that it needs, which are gone by then.)
MARKS: dict[type[Pass], dict[str, Any]] = {
    RotateHeads: {"rotated_heads": False},
    RotateResidual: {"rotated_residual": False},
    RidgeAndGPTQ: {"compensated": False},
    Reconstruct: {"reconstruction": ()},
}


@dataclass(frozen=True)
class Run:
    """A pass that has run: what it said, a copy of the graph that it made, and the same pass for a second run."""

    step: Pass
    changed: bool
    graph: fx.GraphModule
    again: Pass


def build(config: Any, images: Tensor) -> list[Pass]:
    return pipeline(QuantConfig.from_any(config), [ModelInputs((images,), {})])


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def runs(request: pytest.FixtureRequest, vit: nn.Module, images: Tensor) -> list[Run]:
    """Each pass of a recipe."""
    graph, result = trace(vit, (images,)), list[Run]()
    for step, again in zip(build(request.param, images), build(request.param, images), strict=True):
        changed = step(graph)
        result.append(Run(step, changed, copy.deepcopy(graph), again))
    return result


@pytest.mark.slow(after=1)
def test_stages_follow_one_another(runs: list[Run]) -> None:
    assert list(dict.fromkeys(run.step.gives for run in runs)) == list(STAGES[1:])
    for run in runs:
        assert facts_of(run.graph).stage == run.step.gives


def test_a_second_run_changes_nothing(runs: list[Run], images: Tensor) -> None:
    """By a pass that has not run before: all it knows of the first run is the graph."""
    for run in runs:
        name, graph = type(run.step).__name__, copy.deepcopy(run.graph)
        before, output = fingerprint(graph), graph(images)
        tensors = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
        assert run.again.run(graph) is False, name
        assert fingerprint(graph) == before, name
        assert graph.state_dict().keys() == tensors.keys(), name
        for path, tensor in graph.state_dict().items():
            assert torch.equal(tensor, tensors[path]), f"{name}: {path}"
        assert torch.equal(graph(images), output), name


def test_what_says_that_it_changed_the_graph_did(runs: list[Run], vit: nn.Module, images: Tensor) -> None:
    """Compared by value; a pass compares what it was given with what it made by identity and version."""
    before = trace(vit, (images,))
    for run in runs:
        assert run.changed == (described(run.graph) != described(before)), type(run.step).__name__
        before = run.graph


def described(graph: fx.GraphModule) -> tuple[str, dict[str, bytes]]:
    """Nodes and plans as text, and the bytes of all tensors."""
    nodes = "\n".join(f"{node.format_node()} {get_plan(node)}" for node in graph.graph.nodes)
    return nodes, {name: tensor.detach().numpy().tobytes() for name, tensor in graph.state_dict().items()}


def test_without_its_mark_a_second_run_would_change_the_graph(runs: list[Run], images: Tensor) -> None:
    """And a second rotation would keep the numbers, as the first does."""
    for run in runs:
        if type(run.step) in MARKS and run.changed:
            graph = copy.deepcopy(run.graph)
            output = graph(images)
            update_facts(graph, **MARKS[type(run.step)])
            assert run.again.run(graph) is True, type(run.step).__name__
            if run.step.keeps_function:
                torch.testing.assert_close(graph(images), output, rtol=1e-4, atol=1e-4)


def test_passes_before_the_quantizers_keep_the_numbers(runs: list[Run], vit: nn.Module, images: Tensor) -> None:
    expected = copy.deepcopy(vit).double()(images.double())
    for run in runs:
        if STAGES.index(run.step.gives) <= STAGES.index("calibrated"):
            torch.testing.assert_close(run.graph(images).double(), expected, rtol=1e-4, atol=1e-4)
