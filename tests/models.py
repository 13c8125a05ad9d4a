"""Small models for tests, also importable by the command line as ``tests.models:factory``."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from qpass.data import ImageTransform

#: How images become the input of the small ViT, and what its classes are called.
SMALL_VIT_IMAGES = ImageTransform(crop=32, resize=36, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), interpolation="bilinear")
SMALL_VIT_CLASSES = [f"kind {i}" for i in range(10)]


def small_vit(seed: int = 0, **options: object) -> nn.Module:
    """timm's ViT with 2 blocks of width 48 and 3 heads for 32x32 images, LayerNorms made uneven as training makes them."""
    arguments: dict[str, object] = {
        "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 10,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VisionTransformer(**{**arguments, **options})
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.2, 3.0)
                nn.init.normal_(module.bias, std=0.5)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.15)
                nn.init.normal_(module.bias, std=0.1)
    return model.eval()


class MaskedAttention(nn.Module):
    """Attention with separate projections, a float mask and a Linear whose input no LayerNorm makes."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.register_buffer("mask", torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = (split(layer(x)) for layer in (self.query, self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.out(y.transpose(1, 2).flatten(2))


class DictModel(nn.Module):
    """Takes inputs by name and gives a dict, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, values: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        y = self.layer(values)
        return {"logits": y if scale is None else y * scale, "hidden": y.relu()}


class Branching(nn.Module):
    """A forward whose control flow depends on data, around a part that can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x)
        return y if y.sum().item() > 0 else -y


class ManyOutputs(nn.Module):
    """Outputs of every kind: large and small ones, one before a quantizer, integers, booleans, and infinite values."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
            self.boxes, self.scores, self.small = nn.Linear(width, 4), nn.Linear(width, 6), nn.Linear(width, 3)
        with torch.no_grad():
            self.boxes.weight *= 1e4
            self.small.weight *= 1e-4
            self.small.bias *= 1e-4

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x)
        scores = self.scores(hidden)
        return {
            "boxes": self.boxes(hidden),
            "scores": scores,
            "small": self.small(hidden),
            "hidden": hidden.sin(),
            "best": scores.argmax(-1),
            "positive": scores > 0.1,
            "masked": scores.masked_fill(scores < 0, float("-inf")),
        }
