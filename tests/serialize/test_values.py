"""Every value that a node's argument may be comes back with its exact type, and nothing else is read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from qpass.errors import DataError
from qpass.serialize.values import decode, encode

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
numbers = st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
constants = st.sampled_from(
    [torch.float16, torch.bool, torch.channels_last, torch.strided, torch.device("cpu"), torch.device("cuda:1"), ...]
)
ranges = st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-2, 1, 3]))
slices = st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.none() | st.integers(1, 3))
leaves = plain | numbers | constants | ranges | slices
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, float | complex):
        return type(a) is type(b) and repr(a) == repr(b)  # minus zero is not zero
    return type(a) is type(b) and a == b


@settings(max_examples=50, deadline=None)
@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    assert same(value, decode(json.loads(json.dumps(encode(value, "x"))), {}, "x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, (math.nan, [complex(0, math.inf)])])
def test_numbers_that_json_lacks(value: Any) -> None:
    text = json.dumps(encode(value, "x"), allow_nan=False)
    assert repr(decode(json.loads(text), {}, "x")) == repr(value)


def test_nodes_are_named() -> None:
    node = fx.Graph().placeholder("a")
    data = encode([node, {"k": (node,)}], "x")
    assert decode(json.loads(json.dumps(data)), {"a": node}, "x") == [node, {"k": (node,)}]
    with pytest.raises(DataError, match=r"x: has a value \{'node': 'a'\}; expected what qpass.save writes"):
        decode(data, {}, "x")


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.ones(1), int, [lambda: 0]])
def test_values_of_other_types_are_not_written(value: Any) -> None:
    with pytest.raises(DataError, match=r"x: has a value of type .*, which no file can hold"):
        encode(value, "x")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tuple": [], "more": 1},
        {"tuple": 3},
        {"slice": [1, 2]},
        {"range": [0, 1, 0]},
        {"range": [0, 1.5, 1]},
        {"range": [0, True, 1]},
        {"complex": ["1", 2]},
        {"complex": [1]},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"dtype": "load"},
        {"dtype": ["float32"]},
        {"device": "cpu; import os"},
        {"device": "cuda:1234"},
        {"float": "1e9"},
        {"ellipsis": 1},
        {"eval": "1"},
    ],
    ids=str,
)
def test_data_of_other_forms_is_not_read(data: Any) -> None:
    with pytest.raises(DataError):
        decode(data, {}, "x")
