"""A learned block is shown by its path, with the stage if there are several."""

from __future__ import annotations

from qpass.reconstruction.record import BlockRecord


def test_the_label_has_the_stage_if_there_is_one() -> None:
    assert BlockRecord("blocks.0", 0.5, 0.25, 3).label == "blocks.0"
    assert BlockRecord("blocks.0", 0.5, 0.25, 3, stage="weights").label == "blocks.0, weights"
