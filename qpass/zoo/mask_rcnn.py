"""torchvision's Mask R-CNN on a timm vision transformer: the detector of the papers' detection tables.

Its control flow depends on data, so it is quantized in parts: ``PARTS``, which have Linears.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

#: What to pass as ``submodules`` of ``quantize_graph``.
PARTS = ("backbone", "roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_head")


class TransformerPyramid(nn.Module):
    """Feature maps of a hierarchical transformer, projected to one width by a feature pyramid.

    Maps images (B, 3, H, W) to a dict of maps (B, channels, H / stride, W / stride).

    Args:
        backbone: A timm model with ``features_only`` support (``swin_tiny_patch4_window7_224``).
        channels: Width of the maps.
        **options: For ``timm.create_model``.
    """

    def __init__(self, backbone: str, channels: int, **options: Any) -> None:
        super().__init__()
        self.body = timm.create_model(backbone, features_only=True, **options)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), channels)
        self.strides: list[int] = self.body.feature_info.reduction()
        self.out_channels = channels
        self._channels_last = self.body.output_fmt == "NHWC"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See the class."""
        maps = self.body(images)
        if self._channels_last:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(level), features) for level, features in enumerate(maps)))
        return found


def mask_rcnn(
    backbone: str = "swin_tiny_patch4_window7_224",
    *,
    classes: int = 91,
    size: int = 800,
    channels: int = 256,
    hidden: int = 1024,
    mask_layers: Sequence[int] = (256, 256, 256, 256),
    anchor: int = 8,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> MaskRCNN:
    """Returns a Mask R-CNN in eval mode.

    It maps a list of images (3, H, W) in 0..1 to a list of dicts of boxes, labels, scores and masks.

    Args:
        backbone: A hierarchical timm transformer.
        classes: Number of classes, including the background.
        size: Images are resized to ``size`` x ``size``: most transformers accept one size only.
        channels: Width of the feature pyramid.
        hidden: Width of the box head.
        mask_layers: Widths of the convolutions of the mask head.
        anchor: Side of a level's anchors in strides of that level.
        backbone_options: For ``timm.create_model``.
        **options: For torchvision's ``MaskRCNN``.
    """
    pyramid = TransformerPyramid(backbone, channels, img_size=size, **(backbone_options or {}))
    levels = [str(level) for level in range(len(pyramid.strides))]
    mask_head = MaskRCNNHeads(channels, mask_layers, 1)
    detector = MaskRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(
            tuple((anchor * stride,) for stride in pyramid.strides), ((0.5, 1.0, 2.0),) * len(levels)
        ),
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=TwoMLPHead(channels * 7 * 7, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
        mask_head=mask_head,
        mask_predictor=MaskRCNNPredictor(mask_layers[-1], mask_layers[-1], classes),
        min_size=size,
        max_size=size,
        fixed_size=(size, size),
        **options,
    )
    return detector.eval()
