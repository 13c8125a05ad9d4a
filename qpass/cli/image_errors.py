"""Says what is wrong with images in words of the command line instead of Python's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpass.data.images import is_array
from qpass.errors import CalibrationError, DataError, InputsError

_LOADER = "calib_loader"


@contextmanager
def about_images(path: Path) -> Iterator[None]:
    """Turns errors about inputs and batches into errors about the images that they were read from.

    Args:
        path: Path of the images.

    Raises:
        DataError: If the model does not take the images, or they cannot be calibrated on.
    """
    try:
        yield
    except InputsError as error:
        hint = (
            "arrays are used unchanged: save them in the shape and dtype that the model takes"
            if is_array(path)
            else "--crop and --resize, or --image-size, set their size; one number in --mean and --std makes them gray"
        )
        raise DataError(
            error.what, where=error.where, expected=f"images that the model takes, from {path}", hint=hint
        ) from error
    except CalibrationError as error:
        if not error.where.startswith(_LOADER):
            raise
        where = f"{path}{error.where.removeprefix(_LOADER)}"
        raise DataError(error.what, where=where, expected=error.expected, hint=error.hint) from error
