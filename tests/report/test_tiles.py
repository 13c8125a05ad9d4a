"""The tiles say what is known, and the command for what is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qpass.report.data import Agreement, ReportData, Speed, Verified
from qpass.report.tiles import file_sizes, tiles, word


def report(output_sqnr_db: float = 25.0, **options: Any) -> ReportData:
    return ReportData("M", {"name": "w4a4"}, True, 8, (), (), (), (), output_sqnr_db, **options)


@pytest.mark.parametrize(
    ("decibels", "expected"),
    [
        (30.0, "excellent"),
        (29.9, "good"),
        (20.0, "good"),
        (10.0, "fair"),
        (9.9, "poor"),
        (-200.0, "poor"),
        (math.nan, "unknown"),
    ],
)
def test_words(decibels: float, expected: str) -> None:
    assert word(decibels) == expected


def test_what_is_not_known_names_its_command() -> None:
    accuracy, size, speed, verified = tiles(report(), "runs/a/")
    assert (accuracy.value, accuracy.tone) == ("25.0 dB, good", "good")
    assert "an error of 5.6% of the output" in accuracy.note
    assert size.value == "not known"
    assert (speed.value, speed.command) == ("not measured", "qpass bench runs/a/")
    assert (verified.value, verified.command) == ("not yet", "qpass verify runs/a/")
    assert tiles(report(math.nan))[0].value == "unknown"


@pytest.mark.parametrize(
    ("same", "samples", "value", "tone"),
    [(64, 64, "100%", "good"), (62, 64, "96.9%", "fair"), (7, 8, "87.5%", "fair"), (40, 64, "62.5%", "poor")],
)
def test_agreement_comes_first_and_few_samples_decide_nothing(same: int, samples: int, value: str, tone: str) -> None:
    tile = tiles(report(agreement=Agreement(same, samples, 10)))[0]
    assert (tile.value, tile.tone) == (value, tone)
    assert f"{same} of {samples} calibration samples" in tile.note
    assert tile.note.endswith("output error 25.0 dB"), "class scores have no word"


def test_size_is_that_of_the_files_where_they_are_known() -> None:
    weights = {"weights, float32": 100, "weights, stored": 50}
    assert file_sizes(report(sizes=weights)) == (100, 50, "weights")
    sizes = {**weights, "file float.onnx": 2_000_000, "file model.onnx": 500_000}
    assert file_sizes(report(sizes=sizes)) == (2_000_000, 500_000, "files")
    tile = tiles(report(sizes=sizes))[1]
    assert (tile.value, tile.note) == ("25%", "0.50 MB instead of 2.00 MB (files), 4.0 times smaller")


def test_speed_and_verdict() -> None:
    rows = (Speed(1.8, 8, 2, "a processor"), Speed(0.9, 1, 1, "a processor"))
    failed = Verified(False, "FAILED: 3 codes differ", 8)
    _, _, speed, verified = tiles(report(speed=rows, verified=failed))
    assert (speed.value, speed.tone) == ("0.90x", "poor")
    assert speed.note == "batch 1, 1 thread; 1.80x at batch 8, 2 threads; a processor"
    assert (verified.value, verified.note, verified.tone) == ("NO", "FAILED: 3 codes differ", "poor")
