"""What is asked of the float model before anything is done with it: weights with values, and float32 to compute in."""

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
    """Refuses what is no model, and weights that are no numbers.

    Raises:
        TraceError: If it is no ``nn.Module``.
        UnsupportedError: Naming the first module of torch.jit, the first parameter or buffer without values or sparse, or the
            first parameter with values that are NaN or infinite in float32.
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
    """Returns the model in float32, and what makes its inputs float32.

    A model that has weights of another float type (float16, bfloat16, float64) is copied, with a warning: its graph is given
    float32 and gives it. So is one whose weights torch.inference_mode made: such tensors cannot be captured or learned. Inputs
    become ordinary tensors without derivatives.
    """
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        message = f"the model has weights of {names}: it is quantized from float32, which the result takes and gives"
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
