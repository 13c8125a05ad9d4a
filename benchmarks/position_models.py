"""Models whose positions are computed: prompts, masks by queries, rotary embeddings; all small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_SMALL = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}
_DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
_HIERA = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 24, "num_attention_heads": 1, "image_size": [128, 128],
    "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [24, 48, 96, 192], "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [4, 4, 4, 4], "window_positional_embedding_background_size": [4, 4], "global_attention_blocks": [3],
}  # fmt: skip


def sam() -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns SAM: an image encoder with relative positions, points as Fourier features, a mask decoder."""
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 48, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 96, "initializer_range": 0.05,
            "num_pos_feats": 16,
        },
        prompt_encoder_config=_prompts(64, 8),
        mask_decoder_config=_DECODER,
    )  # fmt: skip
    return transformers.SamModel(config), _points(64, torch.int64)


def sam2() -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns SAM 2 for images: a hierarchical encoder, points as Fourier features, a mask decoder."""
    vision = {
        "backbone_config": _HIERA, "backbone_channel_list": [192, 96, 48, 24],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 32,
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=_prompts(128, 16), mask_decoder_config=_DECODER
    )
    return transformers.Sam2Model(config), _points(128, torch.int32)


def eomt() -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns EoMT whose last blocks attend by masks, as in training: computed from its own queries."""
    config = transformers.EomtConfig(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=3, image_size=64, patch_size=8, num_blocks=2, num_queries=10,
        num_upscale_blocks=1, mlp_ratio=2,
    )  # fmt: skip
    model = transformers.EomtForUniversalSegmentation(config)
    del model.attn_mask_probs  # numbers in place of a tensor that the forward branches on
    model.attn_mask_probs = [1.0, 1.0]
    return model, {"pixel_values": torch.randn(8, 3, 64, 64)}


def dinov3() -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a ViT with rotary embeddings in two dims."""
    config = transformers.DINOv3ViTConfig(**_SMALL, image_size=64, num_register_tokens=2)
    return transformers.DINOv3ViTModel(config), {"pixel_values": torch.randn(8, 3, 64, 64)}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a causal transformer with rotary embeddings whose heads share keys and values."""
    config = transformers.LlamaConfig(**_SMALL, num_key_value_heads=1, vocab_size=64, use_cache=False)
    return transformers.LlamaModel(config), {"inputs_embeds": torch.randn(8, 16, 96)}


def _prompts(side: int, patch: int) -> dict[str, Any]:
    return {"hidden_size": 32, "image_size": side, "patch_size": patch, "mask_input_channels": 8}


def _points(side: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns images and, for each, one object with two points."""
    points, labels = torch.rand(8, 1, 2, 2) * side, torch.ones(8, 1, 2, dtype=dtype)
    return {"pixel_values": torch.randn(8, 3, side, side), "input_points": points, "input_labels": labels}


POSITION_MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
    "SamModel": sam,
    "Sam2Model": sam2,
    "EomtForUniversalSegmentation": eomt,
    "DINOv3ViTModel": dinov3,
    "LlamaModel": llama,
}
