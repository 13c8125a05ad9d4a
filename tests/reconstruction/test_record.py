"""A learned block is shown by its path, with the stage if there are several."""

from __future__ import annotations

from qpass.reconstruction.record import BlockRecord, RankSearch


def test_the_label_has_the_stage_if_there_is_one() -> None:
    assert BlockRecord("blocks.0", 0.5, 0.25, 3).label == "blocks.0"
    assert BlockRecord("blocks.0", 0.5, 0.25, 3, stage="weights").label == "blocks.0, weights"


def test_a_search_is_decided_if_one_candidate_is_clearly_ahead() -> None:
    assert RankSearch((2, 6), (0.7, 0.3), (1.0, 0.88)).decided
    assert not RankSearch((2, 6, 9), (0.36, 0.34, 0.3), (1.0, 0.99)).decided
