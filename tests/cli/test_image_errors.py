"""Errors about inputs name options and files of the command line, and no argument of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpass.cli.image_errors import about_images
from qpass.errors import CalibrationError, DataError, InputsError, TraceError


@pytest.mark.parametrize(
    ("path", "hint"), [("x.npy", "save them in the shape and dtype that the model takes"), ("images", "--crop and --resize")]
)
def test_inputs_that_the_model_does_not_take(path: str, hint: str) -> None:
    with pytest.raises(DataError) as caught, about_images(Path(path)):
        raise InputsError("does not run on (1, 2)", where="Net", expected="example_inputs", hint="pass example_inputs=")
    assert str(caught.value).startswith(f"Net: does not run on (1, 2); expected images that the model takes, from {path}; ")
    assert hint in str(caught.value)
    assert "example_inputs" not in str(caught.value)


def test_batches_are_named_by_their_file() -> None:
    with pytest.raises(DataError, match=r"^x\.npy, batch 0: NaN; look at it$"), about_images(Path("x.npy")):
        raise CalibrationError("NaN", where="calib_loader, batch 0", hint="look at it")


@pytest.mark.parametrize("error", [TraceError("other"), CalibrationError("other", where="Net"), ValueError("other")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error), match="other"), about_images(Path("x.npy")):
        raise error
