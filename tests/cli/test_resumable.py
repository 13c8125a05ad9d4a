"""A run that is interrupted says how to resume it, and one that resumes says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpass.cli.resumable import resumable


@pytest.mark.parametrize("kind", ["block", "candidate", ""])
def test_an_interruption_says_how_to_resume(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), resumable(kind, tmp_path):
        raise KeyboardInterrupt
    said = f"interrupted: the same command resumes after the last {kind} saved in {tmp_path}\n"
    assert capsys.readouterr().err == (said if kind else "")


@pytest.mark.parametrize(("saved", "said"), [(0, ""), (1, "resuming: 1 block saved in"), (3, "resuming: 3 blocks saved in")])
def test_a_run_that_resumes_says_so(saved: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(saved):
        (tmp_path / f"{index}.safetensors").touch()
    with resumable("block", tmp_path):
        pass
    assert capsys.readouterr().err == (f"{said} {tmp_path}\n" if said else "")


def test_other_errors_say_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="other"), resumable("block", tmp_path):
        raise ValueError("other")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"), [('{"trials": {"a": {}, "b": {}}}', "resuming: 2 candidates tried before, in "), ("{", "")]
)
def test_candidates_that_were_tried_are_counted(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trials.json").write_text(content)
    with resumable("candidate", tmp_path):
        pass
    assert capsys.readouterr().err == (f"{said}{tmp_path}\n" if said else "")
