"""What a forward may return: logits (batch, classes) and tokens (batch, tokens, width) in the forms that people give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Result(NamedTuple):
    """Logits, and what led to them."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


#: Each takes the logits, the tokens and the input.
OUTPUTS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "tensor": lambda y, t, x: y,
    "tuple": lambda y, t, x: (y, t),
    "list": lambda y, t, x: [y, t[:, 0]],
    "dict": lambda y, t, x: {"logits": y, "hidden": t},
    "nested": lambda y, t, x: {"b": [y, (t,)], "a": {"first": t[:, 0]}},
    "named tuple": lambda y, t, x: Result(y, (t, t * 2)),
    "twice": lambda y, t, x: (y, y),
    "twice in a dict": lambda y, t, x: {"one": y, "two": y, "three": t},
    "the input": lambda y, t, x: (y, x),
    "a view of the input": lambda y, t, x: (y, x.flatten(1)),
    "number": lambda y, t, x: (y, t.shape[1], 0.5),
    "text and None": lambda y, t, x: {"logits": y, "kind": "logits", "loss": None},
    "constant": lambda y, t, x: (y, torch.arange(3)),
    "masked": lambda y, t, x: y.masked_fill(torch.tensor([False, True, False]), float("-inf")),
    "whole numbers": lambda y, t, x: (y, (x > 0).sum((1, 2, 3))),
}
