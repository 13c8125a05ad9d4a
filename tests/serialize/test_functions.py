"""Functions of a file are those of two lists, and each name leads back to its function."""

from __future__ import annotations

import math
import operator
import os
import subprocess
from typing import Any

import pytest
import torch
from torch import fx

from qpass.errors import DataError
from qpass.graph.signature.input_check import check_inputs
from qpass.serialize.functions import bodies, function_by_name, name_of, takes_keywords, target_name

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (operator.getitem, "_operator.getitem"),
        (math.floor, "math.floor"),
        (max, "builtins.max"),
        (torch.sym_int, "torch.sym_int"),
        (aten.linear.default, "aten.linear.default"),
        (torch.ops.higher_order.cond, "higher_order.cond"),
        (check_inputs, "qpass.check_inputs"),
    ],
)
def test_names_lead_to_functions_and_back(function: Any, name: str) -> None:
    found = name_of(function, "x")
    assert function_by_name(found, "x") is function
    assert found.rpartition(".")[2] == name.rpartition(".")[2]


@pytest.mark.parametrize("function", [eval, os.system, subprocess.run, print, aten.from_file.default, torch.load, torch.relu])
def test_other_functions_are_not_written(function: Any) -> None:
    with pytest.raises(DataError, match=r"x: calls .*, which no file can hold"):
        name_of(function, "x")


@pytest.mark.parametrize(
    "name", ["builtins.eval", "eval", "os.system", "aten.from_file.default", "builtins.__import__", "", None, 3, ["math.floor"]]
)
def test_other_names_are_not_read(name: Any) -> None:
    with pytest.raises(DataError):
        function_by_name(name, "x")


def test_keywords_are_for_operators_alone() -> None:
    assert takes_keywords(aten.softmax.int)
    assert not takes_keywords(max), "its key would be called"


def test_regions_are_the_arguments_that_an_operator_runs() -> None:
    assert bodies(torch.ops.higher_order.cond, ("p", "a", "b", ("x",))) == ("a", "b")
    assert bodies(torch.ops.higher_order.while_loop, ("c", "b", ("x",))) == ("c", "b")
    assert bodies(aten.linear.default, ("x", "w")) == ()


def test_a_node_is_named_by_what_it_calls() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert target_name(x) == "x"
    assert target_name(graph.call_function(aten.relu.default, (x,))) == "aten.relu.default"
    assert target_name(graph.call_module("a.b", (x,))) == "a.b"
    with pytest.raises(DataError, match="calls print"):
        target_name(graph.call_function(print, (x,)))
