"""Facts of a graph that a file keeps: written where they say something, read where they can be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import fx, nn

from qpass.errors import DataError
from qpass.graph.facts import facts_of, update_facts
from qpass.serialize.facts import decode_facts, encode_facts

FACTS: dict[str, Any] = {
    "dynamic_batch": True,
    "bound_sizes": False,
    "names": ("x", "y"),
    "dims": [("batch", 3), ("4*tokens", "batch")],
    "open_sizes": ((1, 2), ()),
    "is_part": True,
    "sizes": [((3,), (5, 6))],
    "free": ("scale",),
    "rotated_heads": True,
}


def test_what_differs_from_nothing_is_written_and_read() -> None:
    graph = fx.symbolic_trace(nn.Identity())
    update_facts(graph, **FACTS)
    data = json.loads(json.dumps(encode_facts(graph)))
    assert set(data) == set(FACTS)
    again = fx.symbolic_trace(nn.Identity())
    update_facts(again, **decode_facts(data))
    for name, value in FACTS.items():
        assert getattr(facts_of(again), name) == value, name


def plain(**changes: Any) -> dict[str, Any]:
    return {"dynamic_batch": True, "bound_sizes": False, "names": ["x"], "dims": [["batch"]], "open_sizes": [[]], **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "facts: has other facts"),
        ({"names": ["x"]}, "facts: has other facts"),
        (plain(stage="frozen"), "facts: has other facts"),
        (plain(dynamic_batch=1), "facts.dynamic_batch: is 1; expected what qpass.save writes"),
        (plain(names=[3]), "facts.names"),
        (plain(names="x"), "facts.names"),
        (plain(dims=[["not a name"]]), "facts.dims"),
        (plain(dims=[[-1]]), "facts.dims"),
        (plain(dims=[[True]]), "facts.dims"),
        (plain(dims=[["0*batch"]]), "facts.dims"),
        (plain(open_sizes=[["batch"]]), "facts.open_sizes"),
        (plain(sizes=[[3]]), "facts.sizes"),
        (plain(compensated="yes"), "facts.compensated"),
    ],
)
def test_other_facts_are_refused_by_name(data: Any, message: str) -> None:
    decode_facts(plain())
    with pytest.raises(DataError, match=message):
        decode_facts(data)
