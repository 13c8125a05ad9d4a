"""Models that timm and NNCF test their own graphs with, with random weights.

timm: https://github.com/huggingface/pytorch-image-models/blob/main/tests/test_models.py
NNCF: https://github.com/openvinotoolkit/nncf/blob/develop/tests/torch2/fx/test_models.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from yolo_attention import AreaAttention, PositionalAttention

#: Where timm's fx tests cut their images.
_FX_SIDE = 128

#: The smallest model of each transformer family in timm's fx and feature tests that the zoo does
#: not hold, and its arguments. None for the side of the images leaves the model's own.
TIMM_FAMILIES: dict[str, tuple[dict[str, Any], int | None]] = {
    "vit_xsmall_patch16_clip_224": ({"img_size": _FX_SIDE, "depth": 3}, _FX_SIDE),
    "vit_tiny_r_s16_p8_224": ({"img_size": _FX_SIDE, "depth": 3}, _FX_SIDE),
    "vit_base_patch32_plus_256": ({"img_size": _FX_SIDE, "depth": 3}, _FX_SIDE),
    "vit_little_patch16_reg1_gap_256": ({"img_size": _FX_SIDE, "depth": 4}, _FX_SIDE),
    "samvit_base_patch16_224": ({"depth": 3}, None),
    "sam2_hiera_tiny": ({}, _FX_SIDE),
    "hiera_small_abswin_256": ({"img_size": _FX_SIDE}, _FX_SIDE),
    "eva_giant_patch14_224": ({"depth": 1, "img_size": 56}, 56),
    "beitv2_base_patch16_224": ({"img_size": _FX_SIDE, "depth": 3}, _FX_SIDE),
    "aimv2_large_patch14_224": ({"img_size": 112, "depth": 2}, 112),
    "tnt_s_legacy_patch16_224": ({"depth": 4}, None),
    "mvitv2_tiny": ({}, None),
    "swinv2_cr_tiny_ns_224": ({}, None),
    "swin_s3_tiny_224": ({}, None),
    "coatnet_nano_rw_224": ({"img_size": _FX_SIDE}, _FX_SIDE),
    "vitamin_small_224": ({"img_size": _FX_SIDE}, _FX_SIDE),
    "gmlp_s16_224": ({}, None),
    "resmlp_12_224": ({}, None),
    "mixer_b32_224": ({}, None),
    "gmixer_12_224": ({}, None),
    "sequencer2d_s": ({}, None),
    "poolformer_s12": ({}, _FX_SIDE),
    "caformer_s18": ({}, _FX_SIDE),
    "efficientformerv2_s0": ({}, None),
    "efficientvit_m0": ({}, None),
    "swiftformer_xs": ({}, _FX_SIDE),
    "fastvit_sa12": ({}, _FX_SIDE),
    "nextvit_small": ({}, _FX_SIDE),
    "edgenext_xx_small": ({}, _FX_SIDE),
    "focalnet_tiny_srf": ({}, _FX_SIDE),
    "shvit_s1": ({}, _FX_SIDE),
    "csatv2": ({}, None),
    "mobilenetv4_hybrid_medium": ({}, _FX_SIDE),
    "botnet26t_256": ({}, None),
    "halonet26t": ({}, None),
    "lambda_resnet26t": ({}, None),
}


class ShortTransformer(nn.Module):
    """Token numbers (batch, tokens) -> logits of the next token, by attention without heads."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens(numbers) + self.positions(torch.arange(numbers.shape[-1]))
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = (q @ k.transpose(-2, -1) / x.shape[-1] ** 0.5).softmax(-1)
        return self.head(self.norm(x + weights @ v))


def _timm(name: str, arguments: Mapping[str, Any], side: int | None, images: int) -> tuple[nn.Module, Tensor]:
    model = timm.create_model(name, **arguments)
    channels, *size = model.pretrained_cfg["input_size"]
    return model, torch.randn(images, channels, *([side, side] if side else size))


def _torchvision(name: str, side: int) -> tuple[nn.Module, Tensor]:
    return torchvision.models.get_model(name, weights=None), torch.randn(8, 3, side, side)


def _numbers(*shape: int) -> Tensor:
    return torch.randint(0, 5, shape, dtype=torch.int32)


_NNCF: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "vit_b_16": lambda: _torchvision("vit_b_16", 224),
    "swin_v2_t": lambda: _torchvision("swin_v2_t", 224),
    "resnet18": lambda: _torchvision("resnet18", 224),
    "mobilenet_v3_small": lambda: _torchvision("mobilenet_v3_small", 224),
    "short transformer": lambda: (ShortTransformer(5, 10), _numbers(32, 5)),
    "short transformer, no batch": lambda: (ShortTransformer(5, 10), _numbers(5)),
    "YOLO11 attention": lambda: (PositionalAttention(32, heads=2), torch.randn(8, 32, 8, 8)),
    "YOLO12 area attention": lambda: (AreaAttention(32, heads=2, areas=4), torch.randn(8, 32, 8, 8)),
}

#: Suite -> what it holds, and its models.
SUITES: Mapping[str, tuple[str, Mapping[str, Callable[[], tuple[nn.Module, Any]]]]] = {
    "timm-tiny": (
        "timm's tiny models for tests, `test_*`, at their own size. Every one has a Linear at least.",
        {name: lambda name=name: _timm(name, {}, None, 32) for name in timm.list_models("test_*")},
    ),
    "timm-families": (
        "The smallest model of every transformer family in timm's fx and feature tests that is not listed above; images of 128 x 128 where "
        "the model takes them, few blocks where a block is large.",
        {name: lambda name=name, how=how: _timm(name, *how, 8) for name, how in TIMM_FAMILIES.items()},
    ),
    "nncf": (
        "NNCF's torch.fx models that need no weights. The transformer and the two attention layers are written after the published "
        "architectures. `unet` and `embedding_bag_model` hold nothing that qpass quantizes and are left out.",
        _NNCF,
    ),
}


def create(suite: str, name: str) -> tuple[nn.Module, Any]:
    """Returns a model in eval mode and a batch of inputs, both random from a fixed seed."""
    torch.manual_seed(0)
    model, inputs = SUITES[suite][1][name]()
    for layer in model.modules():  # heads that start at zero give zeros, whatever comes before them
        if isinstance(layer, nn.Linear) and not bool(layer.weight.any()):
            nn.init.normal_(layer.weight, std=0.02)
    return model.eval(), inputs
