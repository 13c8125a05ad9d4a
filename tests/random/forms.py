"""Small networks that are written in ways drawn at random: how they take inputs, write, mask, attend and return.

Where :mod:`tests.random.transformers` varies what a network computes, this varies how its forward says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.random.attentions import ATTENTIONS, DEFINE_WHOLE_ROWS
from tests.random.inputs import STYLES
from tests.random.masks import MASKS, WHOLE_ROWS
from tests.random.outputs import OUTPUTS
from tests.random.positions import ADDED, CLASS_TOKENS, EMBEDDINGS
from tests.random.regions import REGIONS
from tests.random.writes import WRITES

PATCHES, WIDTH, HEADS = 9, 16, 2


@dataclass(frozen=True)
class Form:
    """How a random network is written; each text is a key of the table of its name."""

    inputs: str = "tensor"
    embedding: str = "conv"
    added: str = "none"
    class_token: str = "none"
    region: str = "none"
    write: str = "none"
    activation: str = "gelu"
    mask: str = "none"
    attention: str = "fused"
    output: str = "tensor"
    depth: int = 1
    seed: int = 0


def _activations() -> dict[str, nn.Module]:
    return {"gelu": nn.GELU(), "relu in place": nn.ReLU(inplace=True), "silu in place": nn.SiLU(inplace=True)}


class _Block(nn.Module):
    """Attention and a two-layer network on the stream."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form, self.norm1, self.norm2 = form, nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 24), _activations()[form.activation], nn.Linear(24, WIDTH))

    def forward(self, t: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = self.qkv(self.norm1(t)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mask = {**MASKS, **WHOLE_ROWS}[self.form.mask](t.shape[1]) if self.form.mask != "none" else None
        if seen is not None:
            seen = nn.functional.pad(seen, (t.shape[1] - seen.shape[1], 0), value=1)[:, None, None] > 0
            mask = seen if mask is None else mask & seen if mask.dtype is torch.bool else mask.masked_fill(~seen, -1e4)
        y = ATTENTIONS[self.form.attention](q, k, v, mask)
        t = WRITES[self.form.write](t, self.proj(y.transpose(1, 2).flatten(2)))
        return WRITES[self.form.write](t, self.mlp(self.norm2(t)))


class Network(nn.Module):
    """Images (batch, 3, 12, 12) -> what its form says of logits (batch, 3)."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.embed, self.added = EMBEDDINGS[form.embedding](WIDTH), ADDED[form.added](PATCHES, WIDTH)
        self.cls = nn.Parameter(torch.randn(WIDTH))
        self.blocks = nn.ModuleList(_Block(form) for _ in range(form.depth))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def body(self, x: Tensor, seen: Tensor | None) -> Any:
        """Computes the network, whatever the signature."""
        t = CLASS_TOKENS[self.form.class_token](self.added(self.embed(x)), self.cls)
        for block in self.blocks:
            t = REGIONS[self.form.region](lambda stream, block=block: block(stream, seen), t)
        t = self.norm(t)
        return OUTPUTS[self.form.output](self.head(t.mean(1)), t, x)


def build(form: Form) -> nn.Module:
    """Returns the network with the signature that its form names."""
    kind = type("Network", (Network,), {"forward": STYLES[form.inputs].forward(Network.body)})
    with torch.random.fork_rng():
        torch.manual_seed(form.seed)
        model = kind(form)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0, generator=torch.Generator().manual_seed(form.seed))
    return model.eval()


def batch(form: Form, rows: int, seed: int) -> Any:
    """Returns a batch of that many rows as the form's signature takes it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, 12, 12, generator=generator)
    seen = torch.rand(rows, PATCHES, generator=generator) > 0.3
    seen[:, 0] = True
    return STYLES[form.inputs].batch(x, seen.long())


#: The tables that forms are drawn from.
TABLES: dict[str, Sequence[str]] = {
    "inputs": [*STYLES],
    "embedding": [*EMBEDDINGS],
    "added": [*ADDED],
    "class_token": [*CLASS_TOKENS],
    "region": [*REGIONS],
    "write": [*WRITES],
    "activation": [*_activations()],
    "mask": ["none", *MASKS, *WHOLE_ROWS],
    "attention": [*ATTENTIONS],
    "output": [*OUTPUTS],
}


def forms(most_blocks: int) -> st.SearchStrategy[Form]:
    """Returns forms of all kinds."""
    choices = {name: st.sampled_from(table) for name, table in TABLES.items()}
    return st.builds(_possible, **choices, depth=st.integers(1, most_blocks), seed=st.integers(0, 2**16))


def _possible(**choices: Any) -> Form:
    """Hides no row from everything where the attention gives NaN for it."""
    if choices["mask"] in WHOLE_ROWS and choices["attention"] not in DEFINE_WHOLE_ROWS:
        choices["mask"] = "tril"
    return Form(**choices)
