"""Requirements on the float model: weights that have finite values, and computation in float32."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qpass.data import ModelInputs
from qpass.errors import TraceError, UnsupportedError
from qpass.graph.capture.refusals import refuse_scripted


def check_model(model: nn.Module) -> None:
    """Refuses anything that is not a module, and modules with invalid weights.

    Raises:
        TraceError: If it is not an ``nn.Module``.
        UnsupportedError: If a module is from torch.jit, a parameter or buffer has no values or is
            sparse, or a parameter has values that are NaN or infinite in float32. Names the first.
    """
    if not isinstance(model, nn.Module):
        name = model.__name__ if isinstance(model, type) else f"a {type(model).__name__}"
        raise TraceError(f"got {name}", where="model", expected="a torch.nn.Module")
    refuse_scripted(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta or is_lazy(tensor):
            hint = "load a checkpoint with load_state_dict(..., assign=True), or call a model of lazy modules once"
            raise UnsupportedError("no values, only a shape", where=name, expected="weights in memory", hint=hint)
        if tensor.layout is not torch.strided:
            hint = "make it dense first: to_dense()"
            raise UnsupportedError(f"a tensor of layout {tensor.layout}", where=name, expected="dense weights", hint=hint)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(parameter.detach().float().isfinite().all()):
            raise UnsupportedError(
                "NaN or infinite values",
                where=name,
                expected="finite weights",
                hint="did training diverge, or does the checkpoint hold another number format?",
            )


def in_float32(model: nn.Module) -> tuple[nn.Module, Callable[[ModelInputs], ModelInputs]]:
    """Returns the model in float32, and a function that converts its inputs.

    A model with weights of another float dtype (float16, bfloat16, float64) is copied, with a warning:
    its graph takes and returns float32. A model whose weights were made in torch.inference_mode is
    copied too: such tensors cannot be captured or learned. Inputs become ordinary detached tensors.
    """
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        message = f"the model has weights of {names}: it is quantized from float32, and the result takes and returns float32"
        warnings.warn(message, stacklevel=3)
        model = copy.deepcopy(model).float()
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model)

    def ordinary(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.clone() if leaf.is_inference() else leaf.detach()
        return leaf.float() if kinds and leaf.is_floating_point() else leaf

    return model, lambda batch: ModelInputs(*pytree.tree_map(ordinary, tuple(batch)))
