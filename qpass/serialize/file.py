"""One file per graph: a header, then tensors; it is read back before it is put in place."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.errors import DataError
from qpass.graph.edit import example_inputs
from qpass.graph.facts import facts_of, recipe_of, update_facts
from qpass.graph.short_repr import shorten_repr
from qpass.graph.signature.calls import CheckedCodeGen
from qpass.graph.signature.input_check import check_example, check_is_as_added
from qpass.quantizers import Quantizer
from qpass.report import QuantReport
from qpass.runtime.plain_data import check_plain, check_text
from qpass.runtime.tensor_file import read_tensors, write_tensors
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
from qpass.serialize.module_checks import check_activation
from qpass.serialize.modules import decode_module, encode_module
from qpass.serialize.nodes import Targets, check_resolved, decode_nodes, encode_node
from qpass.serialize.regions import add_regions, encode_regions
from qpass.serialize.tensors import decode_kinds, digest_of, from_file, grouped, kinds_of, put_tensor, tensors_of, to_file
from qpass.serialize.trees import decode_inputs, decode_tree, encode_inputs, encode_tree
from qpass.serialize.values import decode, encode

#: Incremented with every change of the format.
FORMAT = 7

#: Fields of a header.
_FIELDS = {
    *("class", "config", "report", "facts", "example", "example_spec", "kinds", "regions", "modules", "nodes"),
    *("in_names", "in_spec", "out_spec"),
}
_EXPECTED = "a file that qpass.save wrote"


def save_graph(graph_module: fx.GraphModule, path: Path) -> Path:
    """See ``qpass.save``."""
    tensors, description = to_file(tensors_of(graph_module)), _describe(graph_module)
    header = {"format": FORMAT, "digest": digest_of(tensors, description), **description}
    write_tensors(path, tensors, header, check=lambda draft: _check_equal(graph_module, draft, path))
    return path


def load_graph(path: Path) -> fx.GraphModule:
    """See ``qpass.load``."""
    header, tensors = read_tensors(path, expected=_EXPECTED, most=HEADER_CHARACTERS)
    if header.get("format") != FORMAT:
        raise DataError(f"format {str(header.get('format'))[:60]}", where=str(path), expected=f"format {FORMAT}: save it again")
    description = {key: value for key, value in header.items() if key not in ("format", "digest")}
    try:
        check_depth(description)
        check_plain(description, "header")
        for name in tensors:
            check_text(name, "tensors")
        if header.get("digest") != digest_of(tensors, description):
            raise DataError("its digest is another", hint="the file is damaged: copy or save it again")
        return _rebuild(description, tensors)
    except DataError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise DataError(what, where=str(path), expected=error.expected or _EXPECTED, hint=error.hint) from error
    except Exception as error:  # torch and Python may raise anything for malformed data
        raise DataError(f"its graph cannot be read: {error}", where=str(path), expected=_EXPECTED) from error


def _check_equal(graph_module: fx.GraphModule, draft: Path, path: Path) -> None:
    """Rejects a file that does not restore the same tensors to the bit, the same code and the same facts.

    Raises:
        DataError: Naming the first difference, or what ``load`` would refuse.
    """
    try:
        again = load_graph(draft)
    except DataError as error:
        what = f"would not be read again: {error.what}"
        raise DataError(what, where=str(path), expected=error.expected, hint="nothing was written") from error
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


def _check_complete(graph_module: fx.GraphModule, header: Mapping[str, Any], tensors: Collection[str]) -> None:
    """Rejects a file that holds anything beyond what ``save`` writes of the graph built from it.

    Raises:
        DataError: Naming the first tensor or entry that differs.
    """
    lost = sorted(tensors ^ tensors_of(graph_module).keys())
    if lost:
        raise DataError(f"holds {lost[0]}, which no node reads", where="tensors", expected="the tensors of the graph alone")
    place = _first_difference(header, json.loads(json.dumps(_describe(graph_module))), "")
    if place is not None:
        raise DataError("is not what the graph has there", where=place, expected="what qpass.save writes of the graph")


def _first_difference(found: Any, expected: Any, place: str) -> str | None:
    """Returns where two values of plain data first differ, in types and NaN too; None if they do not.

    Recipes, plans and reports of earlier versions may lack fields that have defaults.
    """
    if isinstance(found, dict) and isinstance(expected, dict) and _same_keys(found, expected, place):
        pairs = [(f"{place}.{key}" if place else key, found[key], expected[key]) for key in found]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = [(f"{place}[{index}]", one, other) for index, (one, other) in enumerate(zip(found, expected, strict=True))]
    else:
        return None if json.dumps(found) == json.dumps(expected) else place
    return next((inner for name, one, other in pairs if (inner := _first_difference(one, other, name)) is not None), None)


def _same_keys(found: Mapping[str, Any], expected: Mapping[str, Any], place: str) -> bool:
    if place.startswith(("report", "config")) or ".plan" in place:
        return found.keys() <= expected.keys()
    return list(found) == list(expected)


def _only(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {name: tensors[name]} if name in tensors else {}


def _describe(graph_module: fx.GraphModule) -> dict[str, Any]:
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    pytree_info = graph_module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    leaves, spec = pytree.tree_flatten(example_inputs(graph_module))
    return {
        "class": type(graph_module).__name__,
        "config": recipe_of(graph_module).to_dict(),
        "report": json.loads(facts_of(graph_module).report.to_json()),
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
    """Returns the example inputs; tensors are zeros.

    Raises:
        DataError: If they do not match their structure, or are too large.
    """
    if not isinstance(data, list) or not all(isinstance(leaf, dict) for leaf in data):
        raise DataError("is no list of inputs", where="example", expected=_EXPECTED)
    leaves, room = list[Any](), EXAMPLE_BYTES
    for leaf in data:
        if set(leaf) == {"shape", "dtype"}:
            dtype = decode(leaf["dtype"], {}, "example")
            if not isinstance(dtype, torch.dtype):
                raise DataError(f"has the type {str(dtype)[:60]}", where="example", expected="a type of torch")
            leaf = torch.zeros(example_shape(leaf["shape"], dtype.itemsize, room, "example"), dtype=dtype)
            room -= leaf.nbytes
        elif set(leaf) == {"value"}:
            leaf = decode(leaf["value"], {}, "example")
        else:
            raise DataError("is no input", where="example", expected="a shape and type, or a value")
        leaves.append(leaf)
    return pytree.tree_unflatten(leaves, decode_tree(spec, "example_spec"))


def _rebuild(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    if set(header) != _FIELDS:
        raise DataError("has other fields", where="header", expected=f"{sorted(_FIELDS)}")
    for name in ("modules", "regions", "config"):
        if not isinstance(header[name], dict):
            raise DataError(f"is a {type(header[name]).__name__}", where=name, expected="a mapping")
    check_counts(header, tensors)
    kinds = decode_kinds(header["kinds"], tensors)
    own = from_file(tensors, kinds["complex"])
    root, groups = nn.Module(), grouped(own)
    for name, description in header["modules"].items():
        if "." in dotted_path(name, "modules"):
            raise DataError(f"has the name {name!r}", where="modules", expected="a name without dots")
        module = decode_module(description, groups.get(name, {}), name)
        if isinstance(module, Quantizer):
            check_activation(module, name)
        root.add_module(name, module)
    add_regions(root, header["regions"], own, kinds)
    elsewhere = header["modules"].keys() | header["regions"].keys()
    for name, tensor in own.items():
        if name.partition(".")[0] not in elsewhere:
            put_tensor(root, name, tensor, kinds)
    readable = [name for name in own if name.partition(".")[0] not in elsewhere]
    graph = decode_nodes(header["nodes"], Targets(set(readable), header["regions"].keys(), header["modules"].keys()))
    in_names, in_spec = decode_inputs(header["in_spec"], header["in_names"])
    out_spec = decode_tree(header["out_spec"], "out_spec")
    graph.set_codegen(CheckedCodeGen(fx.graph._PyTreeInfo(in_names, in_spec, out_spec)))
    graph.lint()
    _check_outputs(graph, out_spec)
    graph_module = fx.GraphModule(root, graph, class_name=identifier(header["class"], "class"))
    check_resolved(graph_module)
    report = QuantReport.from_plain(header["report"])
    update_facts(
        graph_module,
        stage="frozen",
        config=QuantConfig.from_any(header["config"]),
        report=report,
        source_check=report.source_check,
        example=_decode_example(header["example"], header["example_spec"]),
        **decode_facts(header["facts"]),
    )
    check_is_as_added(graph_module)
    check_example(graph_module)
    _check_complete(graph_module, header, tensors.keys())
    shorten_repr(graph_module)
    return graph_module.eval().requires_grad_(False)


def _check_outputs(graph: fx.Graph, spec: pytree.TreeSpec) -> None:
    """Rejects a graph whose output has another number of values than its structure.

    Raises:
        DataError: Naming the output.
    """
    output = next(iter(reversed(graph.nodes)))
    if len(output.args) != 1 or output.kwargs or len(pytree.tree_leaves(output.args[0])) != spec.num_leaves:
        raise DataError("gives other values than out_spec has", where=output.name, expected=f"{spec.num_leaves} values")
