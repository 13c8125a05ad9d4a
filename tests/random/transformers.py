"""Small transformers drawn at random, for tests that must hold whatever a user brings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS = {"gelu": nn.GELU, "gelu-tanh": lambda: nn.GELU("tanh"), "relu": nn.ReLU, "silu": nn.SiLU}
MASKS = ("none", "causal", "bias", "padding")
ATTENTIONS = ("fused", "separate", "grouped", "written-out", "torch")
RESIDUALS = ("pre-norm", "post-norm", "parallel", "scaled")


@dataclass(frozen=True)
class Shape:
    """What a random transformer looks like; ``seed`` draws its weights."""

    heads: int
    head_width: int
    tokens: int
    depth: int
    hidden: int
    attention: str
    mask: str
    residual: str
    activation: str
    biases: bool
    shared_blocks: bool
    class_token: bool
    last_norm: bool
    outlier: float
    seed: int

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.heads * self.head_width


class Attention(nn.Module):
    """Attention over (batch, tokens, width), written in one of the ways that people write it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.style, self.mask_kind = shape.heads, shape.attention, shape.mask
        width, bias = shape.width, shape.biases
        shared = 1 if shape.attention == "grouped" else shape.heads
        self.kv_heads, self.scale = shared, shape.head_width**-0.5
        if self.style == "torch":
            self.whole = nn.MultiheadAttention(width, shape.heads, bias=bias, batch_first=True)
        elif self.style == "fused":
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.q = nn.Linear(width, width, bias=bias)
            self.k, self.v = (nn.Linear(width, shared * shape.head_width, bias=bias) for _ in range(2))
        if self.style != "torch":
            self.proj = nn.Linear(width, width, bias=bias)
        tokens = shape.tokens + shape.class_token
        masks = {
            "causal": torch.full((tokens, tokens), float("-inf")).triu(1),
            "bias": torch.randn(tokens, tokens),
            "padding": torch.zeros(tokens, tokens).index_fill(1, torch.arange(tokens // 2 + 1, tokens), float("-inf")),
        }
        self.register_buffer("mask", masks.get(shape.mask))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "torch":
            return self.whole(x, x, x, attn_mask=self.mask, need_weights=False)[0]  # type: ignore[no-any-return]
        if self.style == "fused":
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            k, v = (layer(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for layer in (self.k, self.v))
        if self.style == "grouped":
            k, v = (t.repeat_interleave(self.heads, dim=1) for t in (k, v))
        if self.style == "written-out":
            logits = q @ k.transpose(-2, -1) * self.scale
            logits = logits if self.mask is None else logits + self.mask
            y = logits.softmax(-1) @ v
        else:
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a two-layer network on a residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.kind = shape.residual
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attn = Attention(shape)
        fc1, fc2 = (
            nn.Linear(shape.width, shape.hidden, bias=shape.biases),
            nn.Linear(shape.hidden, shape.width, bias=shape.biases),
        )
        self.mlp = nn.Sequential(fc1, ACTIVATIONS[shape.activation](), fc2)
        self.gamma = nn.Parameter(torch.rand(shape.width) + 0.2) if shape.residual == "scaled" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "post-norm":
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.mlp(x))  # type: ignore[no-any-return]
        if self.kind == "parallel":
            y = self.norm1(x)
            return x + self.attn(y) + self.mlp(y)  # type: ignore[no-any-return]
        scale = (lambda y: y) if self.gamma is None else (lambda y: y * self.gamma)
        x = x + scale(self.attn(self.norm1(x)))
        return x + scale(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class RandomTransformer(nn.Module):
    """(batch, tokens, 6) -> (batch, 5)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Linear(6, shape.width)
        self.cls = nn.Parameter(torch.randn(1, 1, shape.width)) if shape.class_token else None
        blocks = [Block(shape) for _ in range(shape.depth)]
        self.blocks = nn.ModuleList([blocks[0]] * shape.depth if shape.shared_blocks else blocks)
        self.norm = nn.LayerNorm(shape.width) if shape.last_norm else nn.Identity()
        self.head = nn.Linear(shape.width, 5, bias=shape.biases)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.cls is not None else x.mean(1))  # type: ignore[no-any-return]


def build(shape: Shape) -> nn.Module:
    """Returns the network with uneven LayerNorms and, where the shape has one, a channel that is far greater than others."""
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        model = RandomTransformer(shape)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.2, 3.0)
                nn.init.normal_(module.bias, std=0.5)
        with torch.no_grad():
            model.embed.weight[0] *= shape.outlier
    return model.eval()


def shapes() -> st.SearchStrategy[Shape]:
    """Returns shapes of all kinds: one token or one head, odd counts, masks, shared blocks."""
    return st.builds(
        Shape,
        heads=st.integers(1, 4),
        head_width=st.sampled_from([2, 4, 5, 8]),
        tokens=st.integers(1, 9),
        depth=st.integers(1, 2),
        hidden=st.sampled_from([3, 8, 20]),
        attention=st.sampled_from(ATTENTIONS),
        mask=st.sampled_from(MASKS),
        residual=st.sampled_from(RESIDUALS),
        activation=st.sampled_from(sorted(ACTIVATIONS)),
        biases=st.booleans(),
        shared_blocks=st.booleans(),
        class_token=st.booleans(),
        last_norm=st.booleans(),
        outlier=st.sampled_from([1.0, 30.0, 1000.0]),
        seed=st.integers(0, 2**16),
    )
