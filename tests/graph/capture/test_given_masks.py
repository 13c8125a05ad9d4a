"""torch's encoder believes what it is told of its mask while a model is exported, and no longer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules import transformer

from qpass.graph.capture.given_masks import given_masks


def test_the_check_of_masks_is_off_inside_and_back_after_an_error() -> None:
    own = transformer._detect_is_causal_mask
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    assert own(mask, None, 4) is True
    with given_masks():
        assert transformer._detect_is_causal_mask(mask, None, 4) is False
        assert transformer._detect_is_causal_mask(mask, True, 4) is True
    assert transformer._detect_is_causal_mask is own
    with pytest.raises(ZeroDivisionError), given_masks():
        1 / 0  # noqa: B018
    assert transformer._detect_is_causal_mask is own


def test_the_outputs_are_the_same() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, mask = torch.randn(2, 4, 8), nn.Transformer.generate_square_subsequent_mask(4)
    expected = encoder(x, mask=mask)
    with given_masks():
        torch.testing.assert_close(encoder(x, mask=mask), expected)


def test_a_torch_without_the_check_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(transformer, "_detect_is_causal_mask")
    with given_masks():
        assert not hasattr(transformer, "_detect_is_causal_mask")
