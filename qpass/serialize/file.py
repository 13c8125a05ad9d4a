"""One file for a graph: its description in the header, its tensors behind it, read back before it takes its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.calls import CheckedCodeGen
from qpass.config import QuantConfig
from qpass.errors import DataError
from qpass.graph import info
from qpass.report import QuantReport
from qpass.serialize.modules import decode_module, encode_module
from qpass.serialize.nodes import decode_nodes, encode_node
from qpass.serialize.regions import add_regions, encode_regions
from qpass.serialize.tensors import digest_of, from_file, kinds_of, put_tensor, tensors_of, to_file
from qpass.serialize.trees import decode_tree, encode_inputs, encode_tree
from qpass.serialize.values import decode, encode
from qpass.tensor_file import read_tensors, write_tensors

#: Raised with every change of the format.
FORMAT = 6

_EXPECTED = "a file that qpass.save wrote"
_READ_ERRORS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, SyntaxError)


def save_graph(graph_module: fx.GraphModule, path: Path) -> Path:
    """See ``qpass.save``."""
    tensors = to_file(tensors_of(graph_module))
    header = {"format": FORMAT, "tensors": digest_of(tensors), **_describe(graph_module)}
    write_tensors(path, tensors, header, check=lambda draft: _check_equal(graph_module, load_graph(draft), path))
    return path


def load_graph(path: Path) -> fx.GraphModule:
    """See ``qpass.load``."""
    header, tensors = read_tensors(path, expected=_EXPECTED)
    try:
        if header["format"] != FORMAT:
            raise DataError(f"format {header['format']}", where=str(path), expected=f"format {FORMAT}: save it again")
        if header["tensors"] != digest_of(tensors):
            raise DataError(
                "its tensors do not fit its graph", where=str(path), hint="the file is damaged: copy or save it again"
            )
        return _rebuild(header, from_file(tensors, header["kinds"]["complex"]))
    except _READ_ERRORS as error:
        raise DataError(f"its graph cannot be read: {error}", where=str(path), expected=_EXPECTED) from error


def _check_equal(graph_module: fx.GraphModule, again: fx.GraphModule, path: Path) -> None:
    """Refuses a file that does not give back what was saved: the same tensors to the bit, the same code, the same facts.

    Raises:
        DataError: Naming the first difference.
    """
    before, after = tensors_of(graph_module), tensors_of(again)
    differs = [name for name in before.keys() | after.keys() if digest_of(_only(before, name)) != digest_of(_only(after, name))]
    if not differs and str(graph_module.graph) != str(again.graph):
        differs = ["its graph"]
    if not differs:
        first, second = _describe(graph_module), _describe(again)
        differs = [key for key in first if json.dumps(first[key]) != json.dumps(second[key])]
    if differs:
        raise DataError(
            f"{min(differs)} is not read back as it was written", where=str(path), hint="report this; nothing was written"
        )


def _only(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {name: tensors[name]} if name in tensors else {}


def _describe(graph_module: fx.GraphModule) -> dict[str, Any]:
    facts = {
        key: value
        for key, value in info(graph_module).items()
        if key not in ("config", "report", "example", "stage", "source_check")
    }
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    pytree_info = graph_module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    leaves, spec = pytree.tree_flatten(tuple(info(graph_module)["example"]))
    return {
        "class": type(graph_module).__name__,
        "config": info(graph_module)["config"].to_dict(),
        "report": json.loads(info(graph_module)["report"].to_json()),
        "facts": {key: encode(value, key) for key, value in facts.items()},
        "example": [_encode_input(leaf) for leaf in leaves],
        "example_spec": encode_tree(spec),
        "kinds": kinds_of(graph_module),
        "regions": encode_regions(graph_module),
        "modules": {name: encode_module(graph_module.get_submodule(name), name) for name in sorted(called)},
        "nodes": [encode_node(node) for node in graph_module.graph.nodes],
        "in_names": list(pytree_info.orig_args),
        "in_spec": encode_inputs(pytree_info.in_spec),
        "out_spec": encode_tree(pytree_info.out_spec),
    }


def _encode_input(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return {"shape": list(leaf.shape), "dtype": encode(leaf.dtype, "example")}
    return {"value": encode(leaf, "example")}


def _decode_input(data: Mapping[str, Any]) -> Any:
    if "shape" in data:
        return torch.zeros(data["shape"], dtype=decode(data["dtype"], {}))
    return decode(data["value"], {})


def _rebuild(header: dict[str, Any], tensors: dict[str, Tensor]) -> fx.GraphModule:
    root = nn.Module()
    for name, description in header["modules"].items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        root.add_module(name, decode_module(description, own))
    add_regions(root, header["regions"], tensors, header["kinds"])
    for name, tensor in tensors.items():
        if name.partition(".")[0] not in header["modules"] | header["regions"]:
            put_tensor(root, name, tensor, header["kinds"])
    graph = decode_nodes(header["nodes"])
    in_spec, out_spec = decode_tree(header["in_spec"]), decode_tree(header["out_spec"])
    graph.set_codegen(CheckedCodeGen(fx.graph._PyTreeInfo(header["in_names"], in_spec, out_spec)))
    graph.lint()
    graph_module = fx.GraphModule(root, graph, class_name=header["class"])
    example = pytree.tree_unflatten([_decode_input(leaf) for leaf in header["example"]], decode_tree(header["example_spec"]))
    report = QuantReport.from_json(json.dumps(header["report"]))
    info(graph_module).update(
        stage="frozen",
        config=QuantConfig.from_any(header["config"]),
        report=report,
        source_check=report.source_check,
        example=example,
        **{key: decode(value, {}) for key, value in header["facts"].items()},
    )
    return graph_module.eval().requires_grad_(False)
