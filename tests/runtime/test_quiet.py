from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.runtime.quiet import quiet_thread


def test_only_this_thread_is_quiet(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def speak(name: str) -> None:
        print(f"{name} prints")
        logging.getLogger("torch.export").warning("%s logs", name)

    before = sys.stdout, sys.stderr
    with quiet_thread():
        speak("this")
        other = threading.Thread(target=speak, args=("other",))
        other.start()
        other.join()
        logging.getLogger("torch.export").error("an error")
    assert (sys.stdout, sys.stderr) == before
    speak("later")
    assert capsys.readouterr().out.splitlines() == ["other prints", "later prints"]
    assert caplog.messages == ["other logs", "an error", "later logs"]


def test_a_stream_that_another_thread_puts_back_later_speaks_again(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``contextlib.redirect_stdout`` of another thread does, which began inside the block and ends after it."""
    kept = io.StringIO()
    redirect = contextlib.redirect_stdout(kept)
    original = sys.stdout
    with quiet_thread():
        redirect.__enter__()
    assert sys.stdout is kept
    redirect.__exit__(None, None, None)
    print("heard")
    sys.stdout = original
    assert capsys.readouterr().out == "heard\n"


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_captured_prints_no_graph(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(qpass.TraceError):
        qpass.quantize_graph(Branches(), [torch.randn(8, 4)], progress=False)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
