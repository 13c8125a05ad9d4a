"""Refuses, before work starts, what no pass can handle."""

from __future__ import annotations

import torch
from torch import fx, nn

from qpass.errors import UnsupportedError
from qpass.graph.capture.already_quantized import is_quantized_call
from qpass.graph.edit import describe, dtype_of

_HALF = (torch.float16, torch.bfloat16)


def refuse_scripted(model: nn.Module) -> None:
    """Refuses torch.jit modules.

    Raises:
        UnsupportedError: If there is one. Names the first.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            hint = "pass the eager module that torch.jit.script or torch.jit.trace was given"
            raise UnsupportedError(
                "a module of torch.jit", where=name or type(model).__name__, expected="eager modules", hint=hint
            )


def refuse_flex_attention(graph: fx.Graph) -> None:
    """Refuses flex_attention, whose scores a function of the caller modifies.

    Raises:
        UnsupportedError: If it is called. Names where.
    """
    for node in graph.nodes:
        if str(node.target) in ("flex_attention", "flex_attention_backward"):
            hint = "write it as scaled_dot_product_attention, its score_mod or block_mask as attn_mask"
            raise UnsupportedError("flex_attention", where=describe(node), expected="scaled_dot_product_attention", hint=hint)


def refuse_transforms(graph: fx.Graph) -> None:
    """Refuses torch.func transforms such as vmap, which torch.export keeps as separate calls.

    Raises:
        UnsupportedError: If one is called. Names where.
    """
    for node in graph.nodes:
        if str(getattr(node.target, "__module__", "")).startswith("torch._functorch"):
            hint = "write the function for a whole batch"
            raise UnsupportedError(
                "a transform of torch.func, such as vmap", where=describe(node), expected="tensors", hint=hint
            )


def refuse_quantized_calls(graph: fx.Graph) -> None:
    """Refuses operators that quantize: their rounding would be taken for part of the network.

    Raises:
        UnsupportedError: If one is called. Names where.
    """
    for node in graph.nodes:
        if is_quantized_call(node):
            hint = "quantize the float model that it was made from, or take the rounding out of its forward"
            raise UnsupportedError(
                f"is quantized already: it calls {node.target}", where=describe(node), expected="a float model", hint=hint
            )


def refuse_half(graph_module: fx.GraphModule) -> None:
    """Refuses float16 and bfloat16 tensors inside the forward.

    Raises:
        UnsupportedError: If there is one. Names the first.
    """
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and dtype_of(node) in _HALF:
            what = f"a tensor of {str(dtype_of(node)).removeprefix('torch.')}"
            hint = (
                "take .half(), .bfloat16() and .to(dtype) out of the forward, or switch them off in the model's configuration"
            )
            raise UnsupportedError(
                what, where=describe(node), expected="float32, in which qpass computes all non-integers", hint=hint
            )
