"""Skips the steps of ``torch.onnx.export`` that a quantized graph does not need.

On every call, torch's exporter parses the source of all its translations to build a registry, and
retraces the graph to decompose its operators. The registry is the same each time. Decomposing does
not change the file if every operator has a translation. Together these steps take half to two
thirds of the time of an export.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from qpass.backends.onnx_qdq.plain_views import replace_views
from qpass.graph.edit import aten

#: Operators that the exporter removes after decomposing.
_ASSERTIONS = (
    aten.sym_constrain_range_for_size.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
)


@dataclass
class Steps:
    """What the last export did.

    Attributes:
        decomposed: Whether it decomposed the operators.
    """

    decomposed: bool = True


@contextmanager
def needed_steps() -> Iterator[Steps]:
    """Makes ``torch.onnx.export`` skip the steps that would not change the file, in this thread.

    If another version of torch has a different exporter, nothing is skipped.

    Yields:
        What the last export in the block did.
    """
    steps, ident = Steps(), threading.get_ident()
    try:
        from torch.onnx._internal.exporter import _fx_passes, _registration

        build, decompose = _registration.ONNXRegistry.from_torchlib, _fx_passes.decompose_with_registry
    except (ImportError, AttributeError):
        yield steps
        return

    def from_torchlib(*args: Hashable, **kwargs: Hashable) -> Any:
        if threading.get_ident() != ident:
            return build(*args, **kwargs)
        return _own(_translations(build, args, tuple(kwargs.items()), len(torch._C._dispatch_get_all_op_names())))

    def decompose_with_registry(program: ExportedProgram, registry: Any) -> ExportedProgram:
        steps.decomposed = threading.get_ident() != ident or not _is_functional(program)
        if not steps.decomposed:
            replace_views(program.graph_module)
            steps.decomposed = not all(map(partial(_is_final, registry=registry), program.graph.nodes))
        return decompose(program, registry) if steps.decomposed else program

    with (
        mock.patch.object(_registration.ONNXRegistry, "from_torchlib", staticmethod(from_torchlib)),
        mock.patch.object(_fx_passes, "decompose_with_registry", decompose_with_registry),
    ):
        yield steps


@cache
def _translations(
    build: Callable[..., Any], args: tuple[Hashable, ...], kwargs: tuple[tuple[str, Hashable], ...], operators: int
) -> Any:
    """Builds the registry once for each opset and number of registered operators.

    Libraries register operators when they are imported, such as torchvision its ``nms``.
    """
    return build(*args, **dict(kwargs))


def _own(registry: Any) -> Any:
    """Returns a copy that an export may modify."""
    own = copy.copy(registry)
    own.functions = {target: list(found) for target, found in registry.functions.items()}
    return own


def _is_functional(program: ExportedProgram) -> bool:
    """Returns whether a program has no nested graphs and mutates no buffers."""
    nested = any(isinstance(module, fx.GraphModule) for module in program.graph_module.children())
    return not nested and all(spec.kind is OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs)


def _is_final(node: fx.Node, registry: Any) -> bool:
    """Returns whether an operator is an assertion, or has a translation and is not decomposed."""
    if node.op != "call_function" or node.target in _ASSERTIONS:
        return True
    if not registry.is_registered(node.target):
        return False
    if node.target is aten.reshape.default or not isinstance(node.target, torch._ops.OpOverload):
        return True
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(node.target.name(), "CompositeImplicitAutograd")
    is_view = any(argument.alias_info is not None for argument in node.target._schema.arguments)
    return not (composite and is_view) and not node.target._schema.is_mutable
