from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from qpass.graph.facts import GraphFacts, facts_of, update_facts


def graph() -> fx.GraphModule:
    return fx.symbolic_trace(nn.ReLU())


def test_a_graph_of_others_has_the_defaults_and_nothing_is_written() -> None:
    other = graph()
    assert facts_of(other) == GraphFacts()
    assert not other.meta


def test_an_unknown_fact_is_an_error() -> None:
    with pytest.raises(TypeError, match="dynamic"):
        update_facts(graph(), dynamic=True)


def test_a_copy_has_facts_of_its_own() -> None:
    original = graph()
    update_facts(original, stage="traced", example=((torch.zeros(2),), {}))
    copied = copy.deepcopy(original)
    update_facts(copied, stage="canonical")
    assert (facts_of(original).stage, facts_of(copied).stage) == ("traced", "canonical")
    assert facts_of(copied).example is not facts_of(original).example
