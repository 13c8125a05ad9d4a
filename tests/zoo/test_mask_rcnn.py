"""A detector on a transformer: maps of every stride, and parts that exist."""

from __future__ import annotations

import torch

from qpass.zoo.mask_rcnn import PARTS, TransformerPyramid, mask_rcnn

SMALL = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4, "pretrained": False}


def test_maps_have_one_width_and_the_strides_of_their_levels() -> None:
    pyramid = TransformerPyramid("swin_tiny_patch4_window7_224", 16, img_size=128, **SMALL).eval()
    maps = pyramid(torch.randn(2, 3, 128, 128))
    assert [tuple(maps[name].shape) for name in maps] == [(2, 16, 128 // stride, 128 // stride) for stride in pyramid.strides]
    assert pyramid.strides == [4, 8, 16, 32]


def test_it_detects_and_has_the_parts_that_are_quantized() -> None:
    torch.manual_seed(0)
    detector = mask_rcnn(
        classes=3, size=64, channels=16, hidden=24, mask_layers=(8, 8), backbone_options=SMALL, box_detections_per_img=2
    )
    assert not detector.training
    for part in PARTS:
        assert any(isinstance(module, torch.nn.Linear | torch.nn.Conv2d) for module in detector.get_submodule(part).modules())
    with torch.no_grad():
        found = detector([torch.rand(3, 50, 70), torch.rand(3, 64, 64)])
    for result, size in zip(found, ((50, 70), (64, 64)), strict=True):
        assert set(result) == {"boxes", "labels", "scores", "masks"}
        assert len(result["boxes"]) <= 2
        assert result["masks"].shape[1:] == (1, *size)
