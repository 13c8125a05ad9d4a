"""Ways of writing attention: queries, keys and values (batch, heads, tokens, channels) and a mask or None -> the same shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return logits
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else logits + mask


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _fused_with_scale(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, scale=0.25)


def _written(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return _masked(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), mask).softmax(-1) @ v


def _in_float32(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    logits = _masked(torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5, mask)
    return torch.matmul(F.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype), v)


def _in_place(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    logits = q @ k.transpose(-2, -1)
    logits *= q.shape[-1] ** -0.5
    if mask is not None and mask.dtype is torch.bool:
        logits.masked_fill_(~mask, torch.finfo(logits.dtype).min)
    elif mask is not None:
        logits += mask
    return logits.softmax(-1) @ v


def _einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    logits = _masked(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, mask)
    return torch.einsum("bhij,bhjd->bhid", logits.softmax(-1), v)


def _einsum_of_tokens(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    logits = _masked(torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5, mask)
    return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v).transpose(1, 2)


def _head_by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    mask = mask if mask is None or mask.dim() == 2 else mask[0]
    heads = [_written(q[:, h], k[:, h], v[:, h], mask) for h in range(q.shape[1])]
    return torch.stack(heads, 1)


def _batched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q2, k2, v2 = (t.flatten(0, 1) for t in (q * q.shape[-1] ** -0.5, k, v))
    logits = _masked(torch.bmm(q2, k2.transpose(1, 2)).view(*q.shape[:3], -1), mask)
    return torch.bmm(logits.softmax(-1).flatten(0, 1), v2).view_as(q)


def _rotary(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """With positions whose angles the forward computes, as transformers' models do."""
    half = q.shape[-1] // 2
    frequencies = 1.0 / (100 ** (torch.arange(half, dtype=torch.float32) / half))
    positions = torch.arange(q.shape[-2], dtype=torch.float32)
    angles = (frequencies[None, :, None].expand(q.shape[0], half, 1) @ positions[None, None]).transpose(1, 2)
    angles = torch.cat([angles, angles], -1)[:, None]
    turn = lambda t: t * angles.cos() + torch.cat([-t[..., half:], t[..., :half]], -1) * angles.sin()  # noqa: E731
    return F.scaled_dot_product_attention(turn(q), turn(k), v, attn_mask=mask)


ATTENTIONS: dict[str, Attend] = {
    "fused": _fused,
    "scale": _fused_with_scale,
    "written": _written,
    "float32": _in_float32,
    "in place": _in_place,
    "einsum": _einsum,
    "einsum of tokens": _einsum_of_tokens,
    "head by head": _head_by_head,
    "bmm": _batched,
    "rotary": _rotary,
}
#: Those that define what a row gives that sees nothing.
DEFINE_WHOLE_ROWS = ("fused", "scale", "rotary")
