"""Masks (tokens, tokens) of computed constants: what a row may look at is True, or 0 where the mask is a float bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lower(n: int) -> Tensor:
    """Returns the mask of causal attention."""
    return torch.ones(n, n, dtype=torch.bool).tril()


def _listed(n: int) -> Tensor:
    return torch.tensor([[column <= row for column in range(n)] for row in range(n)])


def _made_in_steps(n: int) -> Tensor:
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[:, : n // 2 + 1] = True
    mask |= torch.eye(n, dtype=torch.bool)
    return mask


def _float_filled(n: int) -> Tensor:
    return torch.zeros(n, n).masked_fill(~lower(n), float("-inf"))


def _halves(n: int) -> Tensor:
    left = torch.ones(n, n // 2 + 1, dtype=torch.bool)
    return torch.cat([left, torch.zeros(n, n - left.shape[1], dtype=torch.bool)], 1)


#: Each is called in a forward with the count of tokens.
MASKS: dict[str, Callable[[int], Tensor]] = {
    "tril": lower,
    "tril == 1": lambda n: torch.ones(n, n).tril() == 1,
    "tril to bool": lambda n: torch.ones(n, n).tril().to(torch.bool),
    "not triu": lambda n: ~torch.ones(n, n).triu(1).bool(),
    "positions": lambda n: torch.arange(n)[:, None] >= torch.arange(n)[None],
    "window": lambda n: (torch.arange(n)[:, None] - torch.arange(n)).abs() < 3,
    "and": lambda n: lower(n) & (torch.arange(n) != 1),
    "or": lambda n: torch.logical_or(lower(n), torch.arange(n) > n - 2),
    "4 dims": lambda n: lower(n)[None, None],
    "listed": _listed,
    "made in steps": _made_in_steps,
    "halves": _halves,
    "where": lambda n: torch.where(lower(n), 0.0, float("-inf")),
    "masked_fill": _float_filled,
    "subtracted": lambda n: (1.0 - torch.ones(n, n).tril()) * -1e4,
    "finfo": lambda n: (~lower(n)).float() * torch.finfo(torch.float32).min,
    "distance": lambda n: -(torch.arange(n)[:, None] - torch.arange(n)).abs() * 0.25,
}
#: Masks that hide a row from everything, which only scaled_dot_product_attention defines: it gives zero.
WHOLE_ROWS: dict[str, Callable[[int], Tensor]] = {
    "rows hidden": lambda n: lower(n) & (torch.arange(n) > 1)[:, None],
    "float rows hidden": lambda n: torch.zeros(n, n).masked_fill((torch.arange(n) < 2)[:, None], float("-inf")),
}
