"""The networks that are timed, with random weights: speed only."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

#: timm's names, and what is not its default.
TIMM: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": {},
    "deit_small_patch16_224": {},
    "vit_base_patch16_224": {},
    "swin_tiny_patch4_window7_224": {},
    "vit_small_patch14_dinov2": {"img_size": 224},
    "mobilevit_s": {},
}
YOLOS = "yolos-tiny at 512 x 512"
MODELS = (*TIMM, YOLOS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Returns a network and images to calibrate it on."""
    torch.manual_seed(0)
    if name == YOLOS:
        return _Yolos().eval(), torch.randn(4, 3, 512, 512)
    model = timm.create_model(name, **TIMM.get(name, {})).eval()
    size = TIMM.get(name, {}).get("img_size")
    return model, torch.randn(4, *((3, size, size) if size else model.pretrained_cfg["input_size"]))


class _Yolos(nn.Module):
    """transformers' YOLOS at the size of hustvl/yolos-tiny: logits and boxes of 100 detection tokens."""

    def __init__(self) -> None:
        from transformers import YolosConfig, YolosForObjectDetection

        super().__init__()
        config = YolosConfig(
            hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=[512, 512], num_labels=91,
            use_mid_position_embeddings=False,
        )  # fmt: skip
        self.model = YolosForObjectDetection(config)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixel_values)
        return found.logits, found.pred_boxes
