"""Files that somebody forged: each fits its digest, and none runs code, writes, imports, or takes memory without bound."""

from __future__ import annotations

import contextlib
import copy
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

import qpass
from qpass.errors import DataError
from tests.serialize.audit import harm
from tests.serialize.forging import WAYS, alter, places, read, rewrite

HARM = '__import__("os").system("touch pwned")'
Header = dict[str, Any]


def refused(path: Path, match: str = "") -> None:
    """Loads a file, which is to be refused before anything happens."""
    with harm() as seen, pytest.raises(DataError, match=match) as caught:
        qpass.load(path)
    assert seen == []
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


@pytest.fixture
def saved(quantized: fx.GraphModule, tmp_path: Path) -> Path:
    return qpass.save(quantized, tmp_path / "m.qpass")


def call(header: Header) -> Header:
    """Returns the first call of a function that takes no keywords."""
    return next(node for node in header["nodes"] if node["op"] == "call_function" and not node["kwargs"])


def of(header: Header, op: str) -> Header:
    """Returns the first node of a kind."""
    return next(node for node in header["nodes"] if node["op"] == op)


def quantizer(header: Header) -> Header:
    """Returns the config of the first quantizer."""
    return next(module["config"] for module in header["modules"].values() if module["kind"] == "Uniform")


def set_config(header: Header, name: str, value: Any) -> None:
    """Changes a setting of the first quantizer."""
    pairs = quantizer(header)["dict"]
    pairs[:] = [[key, value if key == name else old] for key, old in pairs]


#: Each changes a header so that an unguarded reader would run, read or write what it should not.
CODE: dict[str, Callable[[Header], object]] = {
    "a parameter with a default": lambda h: h.update(in_names=[f"x={HARM}"]),
    "a parameter with a default and no nodes": lambda h: h.update(
        in_names=[f"x={HARM}"], nodes=[{**h["nodes"][-1], "args": [1]}]
    ),
    "a parameter with an annotation": lambda h: h.update(in_names=[f"x: {HARM}"]),
    "a keyword as a parameter": lambda h: h.update(in_names=["lambda"]),
    "a placeholder's target": lambda h: of(h, "placeholder").update(target=f"x={HARM}"),
    "a placeholder's default": lambda h: of(h, "placeholder").update(args=[1]),
    "a name of a node": lambda h: call(h).update(name=f"x={HARM}"),
    "a key of keywords": lambda h: call(h).update(kwargs={f"b={HARM},dim": 1}),
    "a key of keyword inputs": lambda h: h.update(
        in_spec={
            "kind": "tuple",
            "keys": None,
            "children": [
                {"kind": "tuple", "keys": None, "children": []},
                {"kind": "dict", "keys": [f"x':{HARM},'y"], "children": [None]},
            ],
        }
    ),
    "a target that ends its quotes": lambda h: of(h, "get_attr").update(target=f'a", {HARM}, "'),
    "a target with dunders": lambda h: of(h, "get_attr").update(target="__class__.__init__.__globals__"),
    "a submodule as a tensor": lambda h: of(h, "get_attr").update(target=next(iter(h["modules"]))),
    "a method": lambda h: call(h).update(op="call_method", target="numpy"),
    "a method that writes": lambda h: call(h).update(op="call_method", target="tofile", args=[call(h)["args"][0], "pwned"]),
    "an operator that reads files": lambda h: call(h).update(target="aten.from_file.default", args=["/etc/passwd", True, 4096]),
    "an operator that writes in place": lambda h: call(h).update(target="aten.add_.Tensor"),
    "an operator with an output": lambda h: call(h).update(target="aten.add.out"),
    "an operator of another library": lambda h: call(h).update(target="profiler._record_function_enter.default"),
    "an unknown operator": lambda h: call(h).update(target="aten.no_such_op.default"),
    "an unknown overload": lambda h: call(h).update(target="aten.add.__init__"),
    "a packet": lambda h: call(h).update(target="aten.add"),
    "a function of os": lambda h: call(h).update(target="os.system"),
    "a function of Python": lambda h: call(h).update(target="__import__"),
    "getattr": lambda h: call(h).update(target="builtins.getattr"),
    "eval": lambda h: call(h).update(target="builtins.eval"),
    "methodcaller": lambda h: call(h).update(target="operator.methodcaller"),
    "a list as a function": lambda h: call(h).update(target=["os", "system"]),
    "a constant of torch that is none": lambda h: call(h)["args"].append({"dtype": "_dynamo"}),
    "a module of torch as a constant": lambda h: call(h)["args"].append({"dtype": "hub"}),
    "a device with code": lambda h: call(h)["args"].append({"device": f"cpu{HARM}"}),
    "an unknown kind of value": lambda h: call(h)["args"].append({"enum": "os.system"}),
    "a class to import": lambda h: next(iter(h["modules"].values())).update(kind="subprocess.Popen"),
    "an enum in a structure": lambda h: h.update(out_spec={"kind": "__enum__", "fqn": "antigravity", "children": []}),
    "a named tuple with code": lambda h: h.update(
        out_spec={"kind": "named tuple", "name": "A(x): pass\nimport os", "keys": ["a"], "children": [None]}
    ),
    "a field of a named tuple": lambda h: h.update(
        out_spec={"kind": "named tuple", "name": "A", "keys": [f"a={HARM}"], "children": [None]}
    ),
    "a name of the class": lambda h: h.update({"class": f"A: pass\n{HARM}"}),
    "a recipe from a file": lambda h: h.update(config="/etc/passwd"),
    "a module's name": lambda h: h["modules"].update({f'a"){HARM}': next(iter(h["modules"].values()))}),
    "another fact": lambda h: h["facts"].update(stage="traced"),
    "another check of inputs": lambda h: next(n for n in h["nodes"] if n["target"] == "qpass.check_inputs")["args"].pop(),
    "a node named self": lambda h: call(h).update(name="self"),
    "a node named torch": lambda h: call(h).update(name="torch"),
    "a method of the graph as a module": lambda h: (
        h["modules"].update(to_folder=next(iter(h["modules"].values()))),
        call(h).update(op="call_module", target="to_folder", args=["pwned"]),
    ),
    "a key of max": lambda h: call(h).update(target="builtins.max", args=[[1, 2]], kwargs={"key": call(h)["args"][0]}),
    "a branch that is no region": lambda h: call(h).update(
        target="higher_order.cond", args=[True, call(h)["args"][0], call(h)["args"][0], {"tuple": [1]}]
    ),
    "names of no tensors": lambda h: h["kinds"]["parameters"].append("other"),
    "no names of inputs": lambda h: h["facts"].update(names=[], dims=[]),
    "a number beyond floats": lambda h: call(h)["args"].append({"complex": [10**400, 0]}),
    "a plan of another class": lambda h: call(h).update(plan={"kind": "Popen", "fields": {}}),
}


@pytest.mark.parametrize("name", CODE)
def test_a_file_runs_nothing(name: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(saved, lambda header, tensors: CODE[name](header))
    refused(saved)
    assert not Path("pwned").exists()


def through(name: str) -> Callable[[Header, dict[str, Tensor]], None]:
    """Adds a tensor whose name the code reads as something else, and calls exec through it."""

    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.zeros(1)
        header["kinds"]["transient"].append(name)
        node = {"kwargs": {}, "path": [], "meta": {}, "plan": None}
        output = header["nodes"].pop()
        header["nodes"] += [
            {**node, "op": "get_attr", "name": "g", "target": name, "args": []},
            *(
                {**node, "op": "call_function", "name": to, "target": "operator.getitem", "args": [{"node": of_}, key]}
                for to, of_, key in (("b", "g", "__builtins__"), ("e", "b", "exec"))
            ),
            {
                **node,
                "op": "call_function",
                "name": "m",
                "target": "builtins.max",
                "args": [[HARM]],
                "kwargs": {"key": {"node": "e"}},
            },
            output,
        ]

    return change


@pytest.mark.parametrize(
    "name",
    [
        "\uff46orward.__\uff47lobals__",  # fullwidth letters, which Python normalizes
        "_wrapped_call._generate_error_message.__globals__",
        "storage.__globals__",
        "forward.__globals__",
        "recompile.__globals__",
    ],
)
def test_a_tensor_is_what_the_code_reads_by_its_name(name: str, saved: Path) -> None:
    rewrite(saved, through(name))
    refused(saved)


def _set(name: str, value: Any) -> Callable[[Header, dict[str, Tensor]], None]:
    return lambda header, tensors: set_config(header, name, value)


def _set_of_weight(name: str, value: Any) -> Callable[[Header, dict[str, Tensor]], None]:
    """Changes a setting of the first weight's quantizer."""

    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        layer = next(module for module in header["modules"].values() if module["kind"] == "QuantizedLinear")
        pairs = layer["quantizer"]["config"]["dict"]
        pairs[:] = [[key, value if key == name else old] for key, old in pairs]

    return change


def _fill(suffix: str, value: float) -> Callable[[Header, dict[str, Tensor]], None]:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(suffix))
        tensors[name] = torch.full_like(tensors[name], value)

    return change


def _drop(suffix: str) -> Callable[[Header, dict[str, Tensor]], None]:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(suffix))
        del tensors[name]
        for names in header["kinds"].values():
            names[:] = [other for other in names if other != name]

    return change


def _cast(suffix: str, dtype: torch.dtype) -> Callable[[Header, dict[str, Tensor]], None]:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(suffix))
        tensors[name] = tensors[name].to(dtype)

    return change


def _cut(suffix: str) -> Callable[[Header, dict[str, Tensor]], None]:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(suffix) and tensors[name].dim())
        tensors[name] = tensors[name][:-1].clone()

    return change


def _fill_one(suffix: str, value: float) -> Callable[[Header, dict[str, Tensor]], None]:
    """Changes the first value of a tensor, and of none whose first value is that already."""

    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(suffix) and tensors[name].flatten()[0] != value)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = value

    return change


def _count_up(suffix: str) -> Callable[[Header, dict[str, Tensor]], None]:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        for name in sorted(tensors):
            if name.endswith(suffix) and tensors[name].dim() == 1 and tensors[name].dtype is torch.uint8:
                tensors[name] = torch.arange(len(tensors[name]), dtype=torch.uint8)

    return change


VALUES = {
    "bits of -3": (_set("bits", -3), "bits: got -3"),
    "bits of 9": (_set("bits", 9), "bits: got 9"),
    "bits as text": (_set("bits", "8"), "bits: got '8'"),
    "bits that are true": (_set("bits", True), "bits: got True"),
    "a percentile of 7": (_set("percentiles", [7.0]), "percentiles: got"),
    "a huge first code": (_set("first_code", 10**9), "first_code: got"),
    "a scale of NaN": (_fill("_quantizer.scale", float("nan")), "scale: holds NaN or infinity"),
    "an infinite scale": (_fill("_quantizer.scale", float("inf")), "scale: holds NaN or infinity"),
    "a scale of zero": (_fill("_quantizer.scale", 0), "scale: holds zeros or negative numbers"),
    "a negative scale": (_fill("_quantizer.scale", -1), "scale: holds zeros or negative numbers"),
    "a weight's scale of NaN": (_fill("quantized.quantizer.scale", float("nan")), "scale: holds NaN or infinity"),
    "a zero point between codes": (_fill("_quantizer.zero_point", 0.5), "zero_point: is no whole number"),
    "a zero point beyond codes": (_fill("_quantizer.zero_point", 1000), "zero_point: is no code"),
    "no scale": (_drop("_quantizer.scale"), "has the tensors"),
    "no codes": (_drop(".codes"), "has the tensors"),
    "no bias": (_drop(".bias"), "has the tensors"),
    "codes in float": (_cast(".codes", torch.float32), r"codes: is torch\.float32"),
    "codes without sign": (_cast(".codes", torch.uint8), r"codes: is torch\.uint8"),
    "scales in float64": (_cast("_quantizer.scale", torch.float64), r"scale: is \(\) of torch\.float64"),
    "fewer scales than channels": (_cut("quantized.quantizer.scale"), "scale: has"),
    "a shorter bias": (_cut(".bias"), "bias: has a bias of another size"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_quantizer_has_are_refused_by_name(name: str, saved: Path) -> None:
    change, match = VALUES[name]
    rewrite(saved, change)
    refused(saved, match)


CODEBOOKS = {
    "a table out of order": (_fill_one("_quantizer.table", 3), "table: does not ascend"),
    "a level for each cell": (_count_up("_quantizer.table"), "table: has 256 levels"),
    "a table of 255 cells": (_cut("_quantizer.table"), r"table: is \(255,\)"),
    "a zero point between cells": (_fill("_quantizer.zero_point", 0.5), "zero_point"),
    "a zero point beyond the cells": (_fill("_quantizer.zero_point", 256.0), r"zero_point: is 256\.0"),
    "a weight's table out of order": (_fill_one("quantized.quantizer.table", 100), "table: does not ascend"),
    "a weight's table of floats": (_cast("quantized.quantizer.table", torch.float32), "table: is"),
    "a table less than channels": (_cut("quantized.quantizer.table"), "table: has"),
    "a scale less than channels": (_cut("quantized.quantizer.scale"), "scale: has"),
    "negative channels": (_set_of_weight("channels", -1), "channels: got -1"),
    "other channels for a table": (_set_of_weight("channels", 2), "table: has"),
    "codes beyond three bits": (_fill(".codes", 8), "codes: holds other codes than its quantizer"),
}


@pytest.mark.parametrize("name", CODEBOOKS)
def test_codebooks_that_no_recipe_makes_are_refused_by_name(
    name: str, quantized_codebook: fx.GraphModule, tmp_path: Path
) -> None:
    path = qpass.save(quantized_codebook, tmp_path / "m.qpass")
    change, match = CODEBOOKS[name]
    rewrite(path, change)
    refused(path, match)


def test_codes_beyond_their_width_are_refused(quantized_4bit: fx.GraphModule, tmp_path: Path) -> None:
    path = qpass.save(quantized_4bit, tmp_path / "m.qpass")
    rewrite(path, _fill("head_quantized.codes", 100))
    refused(path, "head_quantized.codes: holds other codes than its quantizer")


def nested(levels: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(levels):
        data = [data]
    return data


LARGE: dict[str, tuple[Callable[[Header], object], str]] = {
    "deep data": (lambda h: h.update(out_spec=nested(500)), "its data is nested"),
    "many nodes": (lambda h: h.update(nodes=[copy.copy(call(h)) for _ in range(60_000)]), "has 60000 nodes"),
    "a large example": (lambda h: h["example"][0].update(shape=[2**20, 2**20]), "at most 1073741824 bytes"),
    "a negative example": (lambda h: h["example"][0].update(shape=[-1, 3]), "has the shape"),
    "an example of many dims": (lambda h: h["example"][0].update(shape=[1] * 100), "has the shape"),
    "a large example of large numbers": (
        lambda h: h["example"][0].update(shape=[2**26, 4], dtype={"dtype": "complex128"}),
        "at most 1073741824 bytes",
    ),
    "a long header": (lambda h: h["report"].update(model="x" * 2**25), "has a header of"),
    "nodes in regions": (
        lambda h: h.update(regions={f"r{i}": {"nodes": [call(h)] * 20_000, "regions": {}} for i in range(3)}),
        "has 60030? nodes|has 600[0-9][0-9] nodes",
    ),
}


@pytest.mark.slow(after=7)
@pytest.mark.parametrize("name", LARGE)
def test_a_file_takes_no_memory_without_bound(name: str, saved: Path) -> None:
    change, match = LARGE[name]
    rewrite(saved, lambda header, tensors: change(header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(saved, match)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB


#: What stands in for any part of a header: other types, greatest and least values, code, names that exist.
WORDS = (None, True, 0, -1, 2**63, 1e308, "", "x", HARM, "__class__", "aten.from_file.default", [], {}, [[]], {"node": "x"})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Header]:
    """A file of a small network, and its header."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).eval()
    graph = qpass.quantize_graph(model, [torch.randn(8, 4)], "w4a4", progress=False)
    path = qpass.save(graph, tmp_path_factory.mktemp("forged") / "m.qpass")
    return path, read(path)[0]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    draw=st.randoms(use_true_random=False),
    word=st.sampled_from(WORDS),
    how=st.sampled_from(WAYS),
)
def test_any_change_of_a_header_is_refused_or_harmless(
    template: tuple[Path, Header], draw: Random, word: Any, how: str
) -> None:
    path, header = template[0], copy.deepcopy(template[1])
    alter(header, draw.choice(places(header)[1:]), how, word)
    rewrite(path, lambda own, _: (own.clear(), own.update(header)))
    with harm() as seen, contextlib.suppress(DataError):
        qpass.load(path)
    assert seen == []
