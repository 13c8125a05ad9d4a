"""What is asked of the float model before anything is done with it: finite weights, and float32 to compute in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.data import ModelInputs
from qpass.errors import UnsupportedError


def check_weights(model: nn.Module) -> None:
    """Refuses weights that are no numbers.

    Raises:
        UnsupportedError: Naming the first parameter with NaN or infinite values.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and not bool(parameter.isfinite().all()):
            raise UnsupportedError(
                "NaN or infinite values",
                where=name,
                expected="finite weights",
                hint="did training diverge, or does the checkpoint hold another number format?",
            )


def in_float32(model: nn.Module) -> tuple[nn.Module, Callable[[ModelInputs], ModelInputs]]:
    """Returns the model in float32, and what makes its inputs float32.

    A model that has weights of another float type (float16, bfloat16, float64) is copied, with a warning: its graph is given
    float32 and gives it. Inputs that torch.inference_mode made become ordinary tensors, since some passes ask for derivatives.
    """
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        message = f"the model has weights of {names}: it is quantized from float32, which the result takes and gives"
        warnings.warn(message, stacklevel=3)
        model = copy.deepcopy(model).float()

    def ordinary(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.clone() if leaf.is_inference() else leaf
        return leaf.float() if kinds and leaf.is_floating_point() else leaf

    return model, lambda batch: ModelInputs(*pytree.tree_map(ordinary, tuple(batch)))
