from __future__ import annotations

import pytest
import torch

from qpass.cli.doubts import doubts_of_images
from qpass.data.value_range import ValueRange, range_of_values
from qpass.report.data import InputPreview
from qpass.report.pictures import doubt


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0.0, 1.0, ValueRange.UNIT),
        (0.1, 0.4, ValueRange.UNIT),
        (0.0, 255.0, ValueRange.BYTES),
        (-120.0, 130.0, ValueRange.BYTES),
        (-2.1, 2.6, ValueRange.NORMALIZED),
        (-1.0, 1.0, ValueRange.NORMALIZED),
        (0.0, 4.0, ValueRange.NORMALIZED),
        (3.0, 3.0, ValueRange.CONSTANT),
    ],
)
def test_the_command_and_the_page_judge_alike(low: float, high: float, kind: ValueRange) -> None:
    assert range_of_values(low, high) is kind
    page = doubt(InputPreview("x", (1, 8, 8), (low,), (high,), (0.0,), (1.0,), ()))
    batch = torch.linspace(low, high, 32 * 16).view(32, 1, 4, 4)
    command = list(doubts_of_images(batch, 32, None, arrays=True, normalized=True))
    assert bool(page) == bool(command) == (kind is not ValueRange.NORMALIZED)
