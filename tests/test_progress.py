"""Bars change nothing of what they go along, and go to standard error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qpass.progress import StepBar, no_progress, say, track


@pytest.mark.parametrize("show", [True, False])
def test_items_pass_through_and_standard_output_stays_clean(show: bool, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = list[int]()

    def items() -> Iterator[int]:
        for n in range(3):
            drawn.append(n)
            yield n

    bar = track(items(), "label", show=show, total=3)
    assert next(bar) == 0
    assert drawn == [0], "items are taken one by one"
    assert list(bar) == [1, 2]
    assert list(track([5, 6], "label", show=show)) == [5, 6]
    assert capsys.readouterr().out == ""


def test_a_bar_that_is_not_shown_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with StepBar(4, show=False) as bar:
        bar.label = "a step"
        bar.move_to(2)
        bar.advance()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_steps_are_counted() -> None:
    with StepBar(4, show=True) as bar:
        bar.move_to(2)
        bar.label = "a step"
        bar.advance()
        (task,) = bar._bar.tasks
        assert (task.completed, task.total, task.description) == (3, 4, "a step")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for item in track(range(8), "calibrate"):
        now += 12.0
        assert item < 8
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["calibrate: 3 of 8, 36 s", "calibrate: 6 of 8, 72 s"]


def test_lines_are_for_those_who_want_them(capsys: pytest.CaptureFixture[str]) -> None:
    say("a candidate")
    say("hidden", show=False)
    with no_progress():
        say("hidden")
        assert list(track([1], "hidden")) == [1]
    assert capsys.readouterr().err == "a candidate\n"
