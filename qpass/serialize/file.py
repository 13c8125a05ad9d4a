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
from qpass.input_check import check_is_as_added
from qpass.records import record
from qpass.report import QuantReport
from qpass.serialize.facts import decode_facts, encode_facts
from qpass.serialize.limits import (
    EXAMPLE_BYTES,
    HEADER_CHARACTERS,
    check_counts,
    check_depth,
    dotted_path,
    example_shape,
    identifier,
)
from qpass.serialize.modules import decode_module, encode_module
from qpass.serialize.nodes import Targets, check_resolved, decode_nodes, encode_node
from qpass.serialize.regions import add_regions, encode_regions
from qpass.serialize.tensors import below, decode_kinds, digest_of, from_file, kinds_of, put_tensor, tensors_of, to_file
from qpass.serialize.trees import decode_inputs, decode_tree, encode_inputs, encode_tree
from qpass.serialize.values import decode, encode
from qpass.tensor_file import read_tensors, write_tensors

#: Raised with every change of the format.
FORMAT = 7

#: Everything that a header describes.
_FIELDS = {
    *("class", "config", "report", "facts", "example", "example_spec", "kinds", "regions", "modules", "nodes"),
    *("in_names", "in_spec", "out_spec"),
}
_EXPECTED = "a file that qpass.save wrote"


def save_graph(graph_module: fx.GraphModule, path: Path) -> Path:
    """See ``qpass.save``."""
    tensors, description = to_file(tensors_of(graph_module)), _describe(graph_module)
    header = {"format": FORMAT, "digest": digest_of(tensors, description), **description}
    write_tensors(path, tensors, header, check=lambda draft: _check_equal(graph_module, load_graph(draft), path))
    return path


def load_graph(path: Path) -> fx.GraphModule:
    """See ``qpass.load``."""
    header, tensors = read_tensors(path, expected=_EXPECTED, most=HEADER_CHARACTERS)
    if header.get("format") != FORMAT:
        raise DataError(f"format {str(header.get('format'))[:60]}", where=str(path), expected=f"format {FORMAT}: save it again")
    description = {key: value for key, value in header.items() if key not in ("format", "digest")}
    try:
        check_depth(description)
        if header.get("digest") != digest_of(tensors, description):
            raise DataError("its digest is another", hint="the file is damaged: copy or save it again")
        return _rebuild(description, tensors)
    except DataError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise DataError(what, where=str(path), expected=error.expected or _EXPECTED, hint=error.hint) from error
    except Exception as error:  # whatever torch and Python raise for data that is none of ours
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
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    pytree_info = graph_module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    leaves, spec = pytree.tree_flatten(tuple(info(graph_module)["example"]))
    return {
        "class": type(graph_module).__name__,
        "config": info(graph_module)["config"].to_dict(),
        "report": json.loads(info(graph_module)["report"].to_json()),
        "facts": encode_facts(graph_module),
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


def _decode_example(data: Any, spec: Any) -> Any:
    """Returns the example inputs, with zeros in tensors.

    Raises:
        DataError: If they do not fit their structure, or are too large.
    """
    if not isinstance(data, list) or not all(isinstance(leaf, dict) for leaf in data):
        raise DataError("is no list of inputs", where="example", expected=_EXPECTED)
    leaves, room = list[Any](), EXAMPLE_BYTES
    for leaf in data:
        if set(leaf) == {"shape", "dtype"}:
            dtype = decode(leaf["dtype"], {}, "example")
            leaf = torch.zeros(example_shape(leaf["shape"], dtype.itemsize, room, "example"), dtype=dtype)
            room -= leaf.nbytes
        elif set(leaf) == {"value"}:
            leaf = decode(leaf["value"], {}, "example")
        else:
            raise DataError("is no input", where="example", expected="a shape and type, or a value")
        leaves.append(leaf)
    return pytree.tree_unflatten(leaves, decode_tree(spec, "example_spec"))


def _rebuild(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    if set(header) != _FIELDS or not isinstance(header["modules"], dict) or not isinstance(header["config"], dict):
        raise DataError("has other fields", where="header", expected=f"{sorted(_FIELDS)}")
    check_counts(header, tensors)
    kinds = decode_kinds(header["kinds"], tensors)
    own = from_file(tensors, kinds["complex"])
    root = nn.Module()
    for name, description in header["modules"].items():
        root.add_module(dotted_path(name, "modules"), decode_module(description, below(name, own), name))
    add_regions(root, header["regions"], own, kinds)
    elsewhere = header["modules"].keys() | header["regions"].keys()
    for name, tensor in own.items():
        if name.partition(".")[0] not in elsewhere:
            put_tensor(root, name, tensor, kinds)
    graph = decode_nodes(header["nodes"], Targets(own.keys(), header["regions"].keys(), header["modules"].keys()))
    in_names, in_spec = decode_inputs(header["in_spec"], header["in_names"])
    graph.set_codegen(CheckedCodeGen(fx.graph._PyTreeInfo(in_names, in_spec, decode_tree(header["out_spec"], "out_spec"))))
    graph.lint()
    graph_module = fx.GraphModule(root, graph, class_name=identifier(header["class"], "class"))
    check_resolved(graph_module)
    report = record(QuantReport, header["report"], "report")
    info(graph_module).update(
        stage="frozen",
        config=QuantConfig.from_any(header["config"]),
        report=report,
        source_check=report.source_check,
        example=_decode_example(header["example"], header["example_spec"]),
        **decode_facts(header["facts"]),
    )
    check_is_as_added(graph_module)
    return graph_module.eval().requires_grad_(False)
