"""Vision models with random weights, and their inputs: timm's, transformers' and torchvision's.

Sizes are chosen so that the sweep fits a laptop; what a graph looks like does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import torchvision
import transformers
from position_models import POSITION_MODELS
from torch import Tensor, nn

from qpass.zoo.point_transformer import PointTransformer, PointTransformerSegmentation

Inputs = Tensor | dict[str, Tensor]

#: timm: name -> arguments beside the name; some are made small.
TIMM: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {},
    "vit_relpos_small_patch16_224": {},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "flexivit_small": {},
    "swin_tiny_patch4_window7_224": {},
    "swinv2_tiny_window8_256": {},
    "beit_base_patch16_224": {"depth": 4},
    "eva02_tiny_patch14_224": {},
    "cait_xxs24_224": {},
    "xcit_nano_12_p16_224": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "efficientformer_l1": {},
    "levit_128s": {},
    "pvt_v2_b0": {},
    "twins_pcpvt_small": {},
    "twins_svt_small": {},
    "vit_small_patch14_dinov2": {"img_size": 224},
    "vit_small_patch16_dinov3": {},
    "davit_tiny": {},
    "maxvit_rmlp_pico_rw_256": {},
    "coat_lite_tiny": {},
    "convit_tiny": {},
    "crossvit_tiny_240": {},
    "pit_ti_224": {},
    "tiny_vit_5m_224": {},
    "hiera_tiny_224": {},
    "mixer_s16_224": {},
    "vit_base_patch16_siglip_224": {"depth": 4},
    "naflexvit_base_patch16_gap": {"depth": 4},
    "nest_tiny": {},
    "gcvit_xxtiny": {},
    "volo_d1_224": {},
    "efficientvit_b0": {},
    "visformer_tiny": {},
    "poolformerv2_s12": {},
}

_SMALL = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}
_SWIN = {"embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 7, "image_size": 224}
_RESNET = {"depths": [1, 1, 1, 1], "embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "layer_type": "basic"}
_DETR = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "encoder_attention_heads": 8, "decoder_attention_heads": 8, "num_queries": 20,
}  # fmt: skip
_QUERIES = {"hidden_dim": 64, "mask_feature_size": 64, "feature_size": 64, "dim_feedforward": 128, "num_attention_heads": 4}

#: transformers: class of the model -> class of its configuration, its arguments, side of the
#: images. An argument that is a function is called: it makes the configuration of a backbone.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViTForImageClassification": ("ViTConfig", {**_SMALL, "image_size": 64}, 64),
    "ViTMAEForPreTraining": (
        "ViTMAEConfig",
        {**_SMALL, "image_size": 64, "decoder_num_hidden_layers": 2, "decoder_hidden_size": 64, "decoder_num_attention_heads": 4},
        64,
    ),
    "DeiTForImageClassification": ("DeiTConfig", {**_SMALL, "image_size": 64}, 64),
    "BeitForImageClassification": ("BeitConfig", {**_SMALL, "image_size": 64, "use_relative_position_bias": True}, 64),
    "Data2VecVisionForImageClassification": ("Data2VecVisionConfig", {**_SMALL, "image_size": 64}, 64),
    "Dinov2ForImageClassification": ("Dinov2Config", {**_SMALL, "image_size": 56, "patch_size": 14}, 56),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        {**_SMALL, "image_size": 56, "patch_size": 14},
        56,
    ),
    "SwinForImageClassification": ("SwinConfig", _SWIN, 224),
    "Swinv2ForImageClassification": ("Swinv2Config", {**_SWIN, "image_size": 256, "window_size": 8}, 256),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**_SMALL, "image_size": 64, "projection_dim": 48}, 64),
    "SiglipVisionModel": ("SiglipVisionConfig", {**_SMALL, "image_size": 64}, 64),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 64, 96],
            "num_attention_heads": [1, 2, 4, 8],
            "decoder_hidden_size": 64,
        },
        128,
    ),
    "DPTForDepthEstimation": (
        "DPTConfig",
        {**_SMALL, "num_hidden_layers": 4, "image_size": 64, "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False,
         "neck_hidden_sizes": [16, 32, 48, 48], "fusion_hidden_size": 32},
        64,
    ),
    "PvtForImageClassification": ("PvtConfig", {"depths": [1, 1, 1, 1]}, 224),
    "CvtForImageClassification": ("CvtConfig", {"depth": [1, 2, 3]}, 224),
    "MobileViTForImageClassification": ("MobileViTConfig", {}, 256),
    "LevitForImageClassification": ("LevitConfig", {}, 224),
    "YolosForObjectDetection": ("YolosConfig", {**_SMALL, "image_size": [128, 128], "num_detection_tokens": 20}, 128),
    "DetrForObjectDetection": ("DetrConfig", {**_DETR, "backbone_config": lambda: _resnet(["stage4"])}, 128),
    "ConditionalDetrForObjectDetection": (
        "ConditionalDetrConfig",
        {**_DETR, "backbone_config": lambda: _resnet(["stage4"])},
        128,
    ),
    "DetrForSegmentation": (
        "DetrConfig",
        {**_DETR, "backbone_config": lambda: _resnet(["stage1", "stage2", "stage3", "stage4"])},
        128,
    ),
    "RTDetrForObjectDetection": ("RTDetrConfig", {"num_queries": 100, "decoder_layers": 2}, 256),
    "MaskFormerForInstanceSegmentation": (
        "MaskFormerConfig",
        {"backbone_config": lambda: transformers.MaskFormerSwinConfig(**_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])},
        224,
    ),
    "Mask2FormerForUniversalSegmentation": (
        "Mask2FormerConfig",
        {**_QUERIES, "encoder_layers": 2, "decoder_layers": 3, "num_queries": 20, "encoder_feedforward_dim": 128,
         "backbone_config": lambda: transformers.SwinConfig(**_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])},
        224,
    ),
}  # fmt: skip

#: torchvision: name -> side of the images.
TORCHVISION = {"vit_b_32": 224, "swin_t": 224, "swin_v2_t": 256, "maxvit_t": 224}

#: qpass's own: name -> the network and the points of a cloud.
POINT_CLOUDS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "PointTransformer": (lambda: PointTransformer(128, 10, stages=2, neighbours=8), 128),
    "PointTransformerSegmentation": (lambda: PointTransformerSegmentation(128, 10, stages=2, neighbours=8), 128),
}


def _resnet(out_features: list[str]) -> Any:
    return transformers.ResNetConfig(**_RESNET, out_features=out_features)


def _from_timm(name: str) -> tuple[nn.Module, Inputs]:
    model = timm.create_model(name, **TIMM[name])
    channels, *size = model.pretrained_cfg["input_size"]
    side = TIMM[name].get("img_size")
    return model, torch.randn(4, channels, *([side, side] if side else size))


def _from_transformers(name: str) -> tuple[nn.Module, Inputs]:
    config, arguments, side = TRANSFORMERS[name]
    made = {key: value() if callable(value) else value for key, value in arguments.items()}
    if "backbone_config" in made and config != "RTDetrConfig":
        made |= {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None} if "Detr" in config else {}
    model = getattr(transformers, name)(getattr(transformers, config)(**made))
    inputs = {"pixel_values": torch.randn(4, 3, side, side)}
    if config == "ViTMAEConfig":  # what is masked is drawn at random otherwise
        inputs["noise"] = torch.rand(4, (side // 16) ** 2)
    return model, inputs


def _from_torchvision(name: str) -> tuple[nn.Module, Inputs]:
    return torchvision.models.get_model(name), torch.randn(4, 3, TORCHVISION[name], TORCHVISION[name])


def _point_cloud(name: str) -> tuple[nn.Module, Inputs]:
    make, points = POINT_CLOUDS[name]
    return make(), 2 * torch.rand(4, points, 6) - 1


#: Library -> names, and what makes a model and a batch of inputs from a name.
ZOO: Mapping[str, tuple[Mapping[str, object], Callable[[str], tuple[nn.Module, Inputs]]]] = {
    "timm": (TIMM, _from_timm),
    "transformers": (TRANSFORMERS, _from_transformers),
    "torchvision": (TORCHVISION, _from_torchvision),
    "qpass": (POINT_CLOUDS, _point_cloud),
    "positions": (POSITION_MODELS, lambda name: POSITION_MODELS[name]()),
}


def create(library: str, name: str) -> tuple[nn.Module, Inputs]:
    """Returns a model in eval mode and a batch of four, both random from a fixed seed."""
    torch.manual_seed(0)
    model, inputs = ZOO[library][1](name)
    return model.eval(), inputs
