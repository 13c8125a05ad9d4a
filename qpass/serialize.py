"""Saving and loading quantized graphs: tensors by safetensors, the graph as JSON in its header. No pickle, no code."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.config import QuantConfig, QuantSpec
from qpass.errors import DataError
from qpass.graph import info
from qpass.nn import QuantizedConv2d, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.passes.plan import Declined, LayerPlan, OperandPlan
from qpass.quantizers import QUANTIZERS, LookUp, Quantizer
from qpass.report import QuantReport
from qpass.tensor_file import digest, read_tensors, write_tensors

#: Raised with every change of the format.
FORMAT = 5

_KINDS: list[type[nn.Module]] = [*QUANTIZERS.values(), LookUp, QuantizedLinear, ResidualFactor, QuantizedConv2d]
_MODULES = {kind.__name__: kind for kind in _KINDS}
#: Functions besides torch's own operators that a graph may call.
_OPERATOR_NAMES = ["getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge"]
_BUILTINS: dict[str, Any] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATOR_NAMES},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_float", "sym_int")},
}
_TORCH_CONSTANTS = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}


def save_graph(graph_module: fx.GraphModule, path: Path) -> Path:
    """See ``qpass.save``."""
    tensors = graph_module.state_dict()
    write_tensors(path, tensors, {"format": FORMAT, "tensors": _digest(tensors), **_describe(graph_module)})
    return path


def load_graph(path: Path) -> fx.GraphModule:
    """See ``qpass.load``."""
    header, tensors = read_tensors(path, expected="a file that qpass.save wrote")
    try:
        if header["format"] != FORMAT:
            raise DataError(f"format {header['format']}", where=str(path), expected=f"format {FORMAT}: save it again")
        if header["tensors"] != _digest(tensors):
            raise DataError(
                "its tensors do not fit its graph", where=str(path), hint="the file is damaged: copy or save it again"
            )
        return _rebuild(header, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"its graph cannot be read: {error}", where=str(path), expected="a file that qpass.save wrote"
        ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return digest(" ".join(names), [tensors[name] for name in names])


def _describe(graph_module: fx.GraphModule) -> dict[str, Any]:
    facts = info(graph_module)
    modules = {name: module for name, module in graph_module.named_children() if type(module).__name__ in _MODULES}
    pytree_info = graph_module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    example = pytree.tree_map(_describe_input, facts["example"])
    leaves, spec = pytree.tree_flatten(example, is_leaf=lambda leaf: isinstance(leaf, dict) and "shape" in leaf)
    return {
        "class": type(graph_module).__name__,
        "config": facts["config"].to_dict(),
        "report": json.loads(facts["report"].to_json()),
        "dynamic_batch": facts["dynamic_batch"],
        "open_sizes": facts["open_sizes"],
        "sizes": facts.get("sizes", ()),
        "example": leaves,
        "example_spec": pytree.treespec_dumps(spec),
        "modules": {name: _describe_module(module) for name, module in modules.items()},
        "nodes": [_describe_node(node) for node in graph_module.graph.nodes],
        "in_names": list(pytree_info.orig_args),
        "in_spec": pytree.treespec_dumps(pytree_info.in_spec),
        "out_spec": pytree.treespec_dumps(_plain_spec(pytree_info.out_spec)),
    }


def _plain_spec(spec: Any) -> Any:
    """Turns the output classes of other libraries into dicts with the same keys: a file must not name classes to import."""
    children = [_plain_spec(child) for child in spec.children()] if not spec.is_leaf() else []
    if spec.is_leaf():
        return spec
    if spec.type in (tuple, list, dict):
        values = [pytree.tree_unflatten([0] * child.num_leaves, child) for child in children]
        keys = spec.context if spec.type is dict else None
        tree = dict(zip(keys, values, strict=True)) if keys is not None else spec.type(values)
        return pytree.tree_flatten(tree)[1]
    keys = spec.context[0] if spec.context and isinstance(spec.context[0], (list, tuple)) else spec.context
    values = [pytree.tree_unflatten([0] * child.num_leaves, child) for child in children]
    return pytree.tree_flatten(dict(zip(map(str, keys), values, strict=True)))[1]


def _describe_input(leaf: Any) -> Any:
    return {"shape": list(leaf.shape), "dtype": _encode(leaf.dtype)} if isinstance(leaf, Tensor) else leaf


def _describe_module(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, QuantizedLayer):
        quantizer = None if module.quantizer is None else _describe_module(module.quantizer)
        return {"kind": type(module).__name__, "quantizer": quantizer, "bias": module.bias is not None}
    assert isinstance(module, Quantizer)
    return {"kind": type(module).__name__, "config": module.config}


def _describe_node(node: fx.Node) -> dict[str, Any]:
    plan = node.meta.get("qpass")
    return {
        "op": node.op,
        "name": node.name,
        "target": _target_name(node),
        "args": [_encode(value) for value in node.args],
        "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
        "path": [list(entry) for entry in _stack(node)],
        "shape": node.meta.get("shape"),
        "plan": None if plan is None else _encode_plan(plan),
    }


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    return [(key, entry[0]) for key, entry in (node.meta.get("nn_module_stack") or {}).items()]


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    for name, function in _BUILTINS.items():
        if function is node.target:
            return name
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    raise DataError(f"calls {node.target}, which no file can hold", where=node.name)


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [_encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, name in _TORCH_CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(f"an argument of type {type(value).__name__} fits in no file", where="save")


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "slice":
        return slice(*(_decode(part, nodes) for part in content))
    if kind == "device":
        return torch.device(content)
    if kind == "float":
        return float(content)
    constant = getattr(torch, content)
    if kind not in _TORCH_CONSTANTS.values() or type(constant) not in _TORCH_CONSTANTS:
        raise DataError(f"unknown constant {content!r}", where="load")
    return constant


def _encode_plan(plan: LayerPlan | Declined) -> dict[str, Any]:
    return {"kind": type(plan).__name__, "fields": dataclasses.asdict(plan)}


def _decode_plan(data: dict[str, Any]) -> LayerPlan | Declined:
    fields = data["fields"]
    if data["kind"] == "Declined":
        return Declined(**fields)
    spec = lambda values: None if values is None else QuantSpec(**values)  # noqa: E731
    operands = tuple(OperandPlan(**{**operand, "spec": spec(operand["spec"])}) for operand in fields["operands"])
    return LayerPlan(**{**fields, "operands": operands, "weight": spec(fields["weight"])})


def _rebuild(header: dict[str, Any], tensors: dict[str, Tensor]) -> fx.GraphModule:
    root = nn.Module()
    for name, description in header["modules"].items():
        own = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}
        root.add_module(name, _rebuild_module(description, own))
    for name, tensor in tensors.items():
        if name.partition(".")[0] not in header["modules"]:
            owner = root
            *parents, leaf = name.split(".")
            for parent in parents:
                if not hasattr(owner, parent):
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.register_buffer(leaf, tensor)
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for data in header["nodes"]:
        args, kwargs = tuple(_decode(data["args"], nodes)), _decode_kwargs(data["kwargs"], nodes)
        node = graph.create_node(data["op"], _target(data), args, kwargs, name=data["name"])
        node.meta["nn_module_stack"] = {key: (path, "") for key, path in data["path"]}
        node.meta["shape"] = None if data["shape"] is None else tuple(data["shape"])
        if data["plan"] is not None:
            node.meta["qpass"] = _decode_plan(data["plan"])
        nodes[data["name"]] = node
    in_spec, out_spec = pytree.treespec_loads(header["in_spec"]), pytree.treespec_loads(header["out_spec"])
    graph.set_codegen(fx.graph._PyTreeCodeGen(fx.graph._PyTreeInfo(header["in_names"], in_spec, out_spec)))
    graph.lint()
    graph_module = fx.GraphModule(root, graph, class_name=header["class"])
    leaves = [_rebuild_input(leaf) for leaf in header["example"]]
    example = pytree.tree_unflatten(leaves, pytree.treespec_loads(header["example_spec"]))
    info(graph_module).update(
        stage="frozen",
        config=QuantConfig.from_any(header["config"]),
        report=QuantReport.from_json(json.dumps(header["report"])),
        dynamic_batch=header["dynamic_batch"],
        open_sizes=[tuple(dims) for dims in header["open_sizes"]],
        sizes=[tuple(tuple(size) for size in sizes) for sizes in header["sizes"]],
        example=example,
    )
    return graph_module.eval().requires_grad_(False)


def _decode_kwargs(kwargs: dict[str, Any], nodes: dict[str, fx.Node]) -> dict[str, Any]:
    return {key: _decode(value, nodes) for key, value in kwargs.items()}


def _rebuild_input(leaf: Any) -> Any:
    if isinstance(leaf, dict) and "shape" in leaf:
        return torch.zeros(leaf["shape"], dtype=_decode(leaf["dtype"], {}))
    return leaf


def _target(data: dict[str, Any]) -> Any:
    """Finds an operator by name among torch's registered ones and the few builtins: a file cannot name anything else."""
    name = data["target"]
    if data["op"] != "call_function":
        return name
    if name in _BUILTINS:
        return _BUILTINS[name]
    namespace, packet, overload = name.split(".")
    operator_ = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    if not isinstance(operator_, torch._ops.OpOverload):
        raise DataError(f"unknown operator {name!r}", where=data["name"])
    return operator_


def _rebuild_module(description: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    kind = _MODULES[description["kind"]]
    if issubclass(kind, Quantizer):
        quantizer = kind(**description["config"])
        for key, value in tensors.items():
            if key in dict(quantizer.named_parameters()):
                setattr(quantizer, key, nn.Parameter(value, requires_grad=False))
            else:
                quantizer.register_buffer(key, value)
        return quantizer
    assert issubclass(kind, QuantizedLayer)
    quantizer_tensors = {key[len("quantizer.") :]: value for key, value in tensors.items() if key.startswith("quantizer.")}
    inner = description["quantizer"]
    weight_quantizer = None if inner is None else _rebuild_module(inner, quantizer_tensors)
    assert weight_quantizer is None or isinstance(weight_quantizer, Quantizer)
    layer = kind(tensors.get("weight", torch.zeros(0)), tensors.get("bias"), weight_quantizer)
    if "codes" in tensors:
        layer.codes, layer.weight = tensors["codes"], None
    return layer
