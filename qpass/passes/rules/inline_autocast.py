"""wrap_with_autocast(enabled=False, f, x) -> f(x): without an autocast around it, switching it off changes nothing."""

from __future__ import annotations

import operator

import torch
from torch import fx

from qpass.graph import calls, infer_result


def inline_autocast(graph_module: fx.GraphModule) -> int:
    """Inlines the bodies of disabled autocast regions, so that what they compute is seen."""
    return sum(_inline(graph_module, node) for node in calls(graph_module, torch.ops.higher_order.wrap_with_autocast))


def _inline(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    _, _, enabled, _, body, *operands = node.args
    assert isinstance(body, fx.Node)
    inner = getattr(graph_module, str(body.target))
    placeholders = [n for n in inner.graph.nodes if n.op == "placeholder"]
    readers = list(node.users)
    own_tensors = any(n.op == "get_attr" for n in inner.graph.nodes)
    if enabled or own_tensors or any(reader.target is not operator.getitem for reader in readers):
        return False
    copies = dict(zip(placeholders, operands, strict=True))
    with graph_module.graph.inserting_before(node):
        outputs = graph_module.graph.graph_copy(inner.graph, copies)  # type: ignore[arg-type]
    for original in inner.graph.nodes:
        if original.op == "call_function":
            infer_result(copies[original])  # type: ignore[arg-type]
    for original, copied in copies.items():
        if original.op != "placeholder" and isinstance(copied, fx.Node):
            copied.meta.update(original.meta)
    for reader in readers:
        reader.replace_all_uses_with(outputs[reader.args[1]])  # type: ignore[index]
        graph_module.graph.erase_node(reader)
    graph_module.graph.erase_node(node)
    return True
