"""transformers' detectors, which write their spatial shapes into a tensor, read them back, and assert on them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from qpass.graph.capture.trace import trace
from qpass.passes import Canonicalize

transformers = pytest.importorskip("transformers")

SIZES = {
    **{"encoder_hidden_dim": 32, "encoder_in_channels": [16, 16, 16], "feat_strides": [8, 16, 32], "encoder_ffn_dim": 32},
    **{"encoder_attention_heads": 2, "d_model": 32, "num_queries": 10, "decoder_layers": 2, "decoder_attention_heads": 2},
    **{"decoder_ffn_dim": 32, "decoder_in_channels": [32, 32, 32], "num_feature_levels": 3, "num_denoising": 0},
    **{"decoder_n_points": 2, "num_labels": 5},
}
STAGES = ["stage2", "stage3", "stage4"]


def rt_detr_v2() -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=STAGES
    )
    return transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(backbone_config=backbone, **SIZES))


def d_fine() -> nn.Module:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=[16, 16, 16, 16],
        out_features=STAGES,
    )
    return transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **SIZES))


@pytest.mark.nightly
@pytest.mark.parametrize("build", [rt_detr_v2, d_fine])
def test_detector(build: object) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(2, 3, 64, 64)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = trace(model, (x,))
    Canonicalize()(graph)
    assert not any("assert" in str(node.target) or ".item" in str(node.target) for node in graph.graph.nodes)
    with torch.no_grad():
        expected, found = model(x), graph(x)
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["pred_boxes"], expected["pred_boxes"], rtol=1e-4, atol=1e-5)
