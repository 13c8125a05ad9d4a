"""Ways of writing into tensors. Each takes a stream (batch, tokens, width) and what is added to it, and returns their sum or more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Write = Callable[[Tensor, Tensor], Tensor]


def _iadd(t: Tensor, y: Tensor) -> Tensor:
    t += y
    return t


def _add_method(t: Tensor, y: Tensor) -> Tensor:
    return t.add_(y, alpha=0.5)


def _through_a_view(t: Tensor, y: Tensor) -> Tensor:
    t = t + y
    channels = t.transpose(1, 2)
    channels[:, :4] *= 0.5
    return t


def _slice_scaled(t: Tensor, y: Tensor) -> Tensor:
    y[..., ::2] *= 2
    y[:, :1].neg_()
    return t + y


def _buffer_filled(t: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(t)
    out[:] = t
    out += y
    return out


def _out_argument(t: Tensor, y: Tensor) -> Tensor:
    out = torch.zeros_like(t)
    torch.add(t, y, out=out)
    return out


def _masked_by_its_values(t: Tensor, y: Tensor) -> Tensor:
    y.masked_fill_(y < -1, 0.0)
    t[:, -1].zero_()
    return t + y


def _rows_exchanged(t: Tensor, y: Tensor) -> Tensor:
    t = t + y
    order = torch.arange(t.shape[1] - 1, -1, -1)
    t[:, :] = t[:, order]
    return t


def _index_put(t: Tensor, y: Tensor) -> Tensor:
    places = torch.tensor([0, 2])
    t[:, places] = y[:, places]
    return t + y


def _copied_token(t: Tensor, y: Tensor) -> Tensor:
    t[:, 0].copy_(y.mean(1))
    return t + y


def _chained(t: Tensor, y: Tensor) -> Tensor:
    return t.mul_(0.5).add_(y).clamp_(-20, 20)


def _token_by_token(t: Tensor, y: Tensor) -> Tensor:
    out = t.new_zeros(t.shape)
    for token in range(t.shape[1]):
        out[:, token] = t[:, token] + y[:, token]
    return out


WRITES: dict[str, Write] = {
    "none": lambda t, y: t + y,
    "+=": _iadd,
    "add_": _add_method,
    "view": _through_a_view,
    "slice": _slice_scaled,
    "buffer": _buffer_filled,
    "out=": _out_argument,
    "masked_fill_": _masked_by_its_values,
    "exchange": _rows_exchanged,
    "index_put": _index_put,
    "copy_": _copied_token,
    "chain": _chained,
    "loop": _token_by_token,
}
