"""Forged files that hold more than a graph, another graph than they say, or texts and names that do more than to name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import DataError
from qpass.graph.signature.input_check import check_inputs
from tests.serialize.audit import harm
from tests.serialize.forging import rewrite

Header = dict[str, Any]
Tensors = dict[str, Tensor]
Change = Callable[[Header, Tensors], object]


class Attention(nn.Module):
    """One head, with names that forged files refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        weights = (self.q(y) @ self.k(y).transpose(-1, -2) / 3).softmax(-1)
        return self.o(weights @ self.v(y)) + x


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    graph = qpass.quantize_graph(Attention().eval(), [torch.randn(8, 5, 8)], progress=False)
    return qpass.save(graph, tmp_path_factory.mktemp("file") / "m.qpass").read_bytes()


def node(header: Header, name: str) -> Header:
    return next(node for node in header["nodes"] if node["name"] == name)


def insert(header: Header, **fields: Any) -> None:
    """Puts a node before the output."""
    empty = {"op": "call_function", "name": "z", "args": [], "kwargs": {}, "path": [], "meta": {}, "plan": None}
    header["nodes"].insert(-1, {**empty, **fields})


def rename(header: Header, name: str) -> None:
    """Gives the last node before the output another name."""
    header["nodes"][-2]["name"] = name
    header["nodes"][-1]["args"] = json.loads(json.dumps(header["nodes"][-1]["args"]).replace('"add"', json.dumps(name)))


def rename_input(header: Header, name: str) -> None:
    node(header, "x")["target"] = name


def setting(module: str, name: str, value: Any) -> Change:
    """Changes a setting of a quantizer."""

    def change(header: Header, tensors: Tensors) -> None:
        data = header["modules"][module]
        pairs = (data["quantizer"] or data if "quantizer" in data else data)["config"]["dict"]
        pairs[:] = [[key, value if key == name else old] for key, old in pairs]

    return change


def tensor(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda header, tensors: tensors.update({name: make(tensors[name]).contiguous()})


def per_channel(header: Header, tensors: Tensors) -> None:
    setting("layer_norm_quantizer", "axis", 2)(header, tensors)
    for name in ("scale", "zero_point"):
        tensors[f"layer_norm_quantizer.{name}"] = tensors[f"layer_norm_quantizer.{name}"].repeat(8)


def moved(to: str) -> Change:
    """Gives a tensor another name."""

    def change(header: Header, tensors: Tensors) -> None:
        tensors[to] = tensors.pop("layer_norm_folded_weight")
        node(header, "layer_norm_folded_weight")["target"] = to

    return change


def region(header: Header, name: str = "r") -> None:
    """Adds a region that nothing reads."""
    output = {**header["nodes"][-1], "args": [[{"node": "x"}]]}
    header["regions"][name] = {"nodes": [header["nodes"][0], output], "regions": {}}


def text(value: str) -> Change:
    """Puts a text wherever the report has one."""

    def change(header: Header, tensors: Tensors) -> None:
        header["report"]["stayed_float"] = [["linear", value, value]]

    return change


TENSOR, LAYER = ("report", "tensors"), ("report", "layers")


def row(rows: tuple[str, str], **fields: Any) -> Change:
    return lambda header, tensors: header[rows[0]][rows[1]][0].update(fields)


FILES: dict[str, tuple[Change, str]] = {
    # beside the graph
    "a tensor that nothing reads": (lambda h, t: t.update(other=torch.zeros(3)), "holds other, which no node reads"),
    "a tensor deep down": (lambda h, t: t.update({"a.b.c": torch.zeros(3)}), r"holds a\.b\.c, which no node reads"),
    "a region that nothing reads": (lambda h, t: region(h), "regions: is not what the graph has there"),
    "a module that nothing calls": (
        lambda h, t: (
            h["modules"].update(zz={"kind": "QuantizedLinear", "quantizer": None, "bias": False}),
            t.update({"zz.weight": torch.zeros(2, 2)}),
        ),
        r"holds zz\.weight, which no node reads",
    ),
    "a further field of a module": (lambda h, t: h["modules"]["o_quantized"].update(more=1), "o_quantized: has the fields"),
    "a flag that is a text": (
        lambda h, t: h["modules"]["o_quantized"].update(bias="yes"),
        r"modules\.o_quantized\.bias: is not what",
    ),
    "a recipe by its name": (lambda h, t: h.update(config={"preset": "w4a4"}), "config: is not what the graph has there"),
    "another kind of tensor": (
        lambda h, t: h["kinds"]["parameters"].remove("o_quantized.bias"),
        r"kinds\.parameters: is not what the graph has there",
    ),
    # names
    "a node with the name of a function": (lambda h, t: rename(h, "getattr"), "getattr: has the name of something"),
    "a node with the name of a number": (lambda h, t: rename(h, "inf"), "inf: has the name of something"),
    "an input that hides the check of inputs": (
        lambda h, t: rename_input(h, f"{check_inputs.__module__}.check_inputs".replace(".", "_")),
        "is the name of something that the code uses",
    ),
    "an input that hides infinity": (
        lambda h, t: (rename_input(h, "inf"), node(h, "softmax").update(args=[node(h, "softmax")["args"][0], {"float": "inf"}])),
        "inf: is the name of something that the code uses",
    ),
    "a parameter with the name of a class": (lambda h, t: h.update(in_names=["__class__"]), "is the name of something"),
    "a name without end": (lambda h, t: rename(h, "a" * 5000), "has the name 'aaa"),
    "a path without end": (moved("a." * 300 + "b"), "has the path 'a.a.a"),
    # texts
    "a text that moves the cursor": (text("\x1b]0;title\x07"), "texts without control characters"),
    "a text with half a surrogate": (text("\ud800"), "texts without control characters"),
    "a text with a zero": (text("a\0b"), "texts without control characters"),
    "a text that runs backwards": (text("a\u202eb"), "texts without control characters"),
    "a text without end": (text("a" * 100_000), "a text of 100000 characters"),
    "a tensor that moves the cursor": (moved("a\x1bb"), "holds the text 'a.*x1bb'"),
    # reports
    "a report without a recipe": (lambda h, t: h["report"].update(config={}), r"report\.config\.name: is no text"),
    "a layer of another kind": (row(LAYER, kind="<script>"), r"report\.layers\[0\]\.kind: is another"),
    "a tensor of another kind": (row(TENSOR, kind="<script>"), r"report\.tensors\[0\]\.kind: is another"),
    "a quantizer without values": (row(TENSOR, levels=[]), r"report\.tensors\[0\]\.levels: is odd"),
    "a quantizer of many values": (row(TENSOR, levels=[0.0] * 300), r"report\.tensors\[0\]\.levels: is odd"),
    "a range of NaN": (row(TENSOR, low=float("nan")), r"report\.tensors\[0\]: has an odd range"),
    "a range beyond floats": (row(TENSOR, low=-1e308, high=1e308), r"report\.tensors\[0\]: has an odd range"),
    "negative counts": (row(TENSOR, histogram=[-1]), r"report\.tensors\[0\]\.histogram: is odd"),
    "a number of many digits": (lambda h, t: h["report"].update(samples=10**3000), "a number beyond 64 bits"),
    "a float of many digits": (lambda h, t: h["report"].update(output_sqnr_db=10**400), "a number beyond 64 bits"),
    # modules
    "a weight with scales along its inputs": (setting("o_quantized", "axis", 1), r"o_quantized\.axis: is 1; expected 0"),
    "an activation with scales of its own": (per_channel, r"layer_norm_quantizer\.axis: is 2; expected None"),
    "a zero point that no tensor holds": (
        setting("layer_norm_quantizer", "free_zero_point", True),
        r"layer_norm_quantizer\.free_zero_point: is True",
    ),
    "a bias in float64": (tensor("o_quantized.bias", Tensor.double), r"o_quantized\.bias: is torch\.float64"),
    "a bias in int64": (tensor("o_quantized.bias", Tensor.long), r"o_quantized\.bias: is torch\.int64"),
    "a bias of NaN": (tensor("o_quantized.bias", lambda b: b * torch.nan), r"o_quantized\.bias: holds NaN or infinity"),
    # the graph
    "a module that is called twice": (
        lambda h, t: insert(h, op="call_module", target="o_quantized", args=[{"node": "add"}]),
        "calls a module twice",
    ),
    "a tensor of a module": (
        lambda h, t: node(h, "layer_norm_folded_weight").update(target="o_quantized.bias"),
        r"reads 'o_quantized\.bias'; expected one of the file's tensors",
    ),
    "outputs that are not there": (
        lambda h, t: h.update(out_spec={"kind": "tuple", "keys": None, "children": [None, None]}),
        "gives other values than out_spec has",
    ),
    "a region as an output": (
        lambda h, t: (region(h), insert(h, op="get_attr", target="r"), h["nodes"][-1].update(args=[[{"node": "z"}]])),
        "output: reads a region, which is run and not read",
    ),
    "a region that checks inputs": (
        lambda h, t: (region(h), h["regions"]["r"]["nodes"].insert(1, node(h, "check_inputs"))),
        "r: checks inputs",
    ),
    "an example that the graph refuses": (lambda h, t: h["example"][0].update(shape=[2, 7, 9]), r"example: got x \(2, 7, 9\)"),
    "an example without rows": (lambda h, t: h["example"][0].update(shape=[0, 5, 8]), "example: has no rows"),
    "an input without a shape": (lambda h, t: node(h, "x").update(meta={}), "x: has the shape None"),
    "an input name twice": (lambda h, t: h["facts"].update(names=["x", "x"]), "facts.names|checks other inputs"),
    "many arguments": (lambda h, t: node(h, "softmax").update(args=[[0] * 20_000]), "softmax: has too many arguments"),
    "many values": (lambda h, t: h["report"]["config"].update(more=[0] * 2**22), "holds too many values"),
    # texts of Python that say nothing
    "a list for a kind of node": (lambda h, t: node(h, "add").update(op=["a"]), r"add: is a \"\['a'\]\""),
    "a list for a target": (lambda h, t: node(h, "layer_norm_folded_bias").update(target=["a"]), "has the path"),
    "a list for a plan": (lambda h, t: node(h, "q_quantized").update(plan={"kind": [], "fields": {}}), "has no plan that"),
    "a list of notes": (lambda h, t: node(h, "add").update(meta=[]), "add: has other notes"),
    "a module without settings": (lambda h, t: h["modules"]["layer_norm_quantizer"].pop("config"), r"has the fields \['kind'\]"),
    "a list for a type": (lambda h, t: h["example"][0].update(dtype={"dtype": [1]}), "example: has a value"),
    "a number for a type": (lambda h, t: h["example"][0].update(dtype=5), "example: has the type 5"),
    "a list for a key": (
        lambda h, t: h.update(out_spec={"kind": "dict", "keys": [[1]], "children": [None]}),
        "out_spec: has keys that a mapping cannot have",
    ),
    "regions as a list": (lambda h, t: h.update(regions=[]), "regions: is a list"),
    "a range of texts": (
        lambda h, t: insert(h, target="builtins.len", args=[{"range": ["a", "b", "c"]}]),
        "has a range of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_its_graph_and_nothing_else(name: str, original: bytes, tmp_path: Path) -> None:
    change, match = FILES[name]
    path = tmp_path / "m.qpass"
    path.write_bytes(original)
    rewrite(path, change)
    with harm() as seen, pytest.raises(DataError, match=match) as caught:
        qpass.load(path)
    assert seen == []
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "cannot be read" not in message  # what Python says of a mistake of its own
    assert len(message) < 1000


def test_save_names_the_file_and_not_its_draft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = qpass.quantize_graph(nn.Sequential(nn.Linear(4, 4)).eval(), [torch.randn(8, 4)], progress=False)
    layer = next(module for module in graph.modules() if type(module).__name__ == "QuantizedLinear")
    with torch.no_grad():
        layer.bias.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(DataError, match=r"m\.qpass: would not be read again: .*bias: holds NaN") as caught:
        qpass.save(graph, tmp_path / "m.qpass")
    assert ".draft-" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_version_that_had_fewer_fields_is_read(original: bytes, tmp_path: Path) -> None:
    def older(header: Header, tensors: Tensors) -> None:
        del header["config"]["token_weights"]
        del header["config"]["weight"]["tabulated"]
        del header["report"]["unrotated"]
        del node(header, "q_quantized")["plan"]["fields"]["operands"][0]["role"]

    path = tmp_path / "m.qpass"
    path.write_bytes(original)
    x = torch.randn(4, 5, 8)
    expected = qpass.load(path)(x)
    rewrite(path, older)
    assert torch.equal(qpass.load(path)(x), expected)
