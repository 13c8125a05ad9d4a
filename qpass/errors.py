"""The errors that qpass raises on purpose: each says what, where, expected, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QPassError(Exception):
    """Base class of every error that qpass raises on purpose.

    Args:
        what: What happened.
        where: Module path, node name, file or field it happened at.
        expected: What was expected.
        hint: What to do next.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        self.what, self.where, self.expected, self.hint = what, where, expected, hint
        parts = [f"{where}: {what}" if where else what]
        parts += [f"expected {expected}"] if expected else []
        parts += [hint] if hint else []
        self._message = "; ".join(parts)
        super().__init__(self._message)

    def __str__(self) -> str:
        return self._message  # not args: torch.fx adds pages of text to them when an error passes through it


class PassError(Exception):
    """A bug in a pass, not a user error. Not a ``QPassError``, so that the command line shows a traceback."""


class ConfigError(QPassError):
    """A configuration that cannot be carried out."""


class TraceError(QPassError):
    """A model that cannot be captured as a graph."""


class InputsError(TraceError):
    """Example inputs that the model's forward does not take."""


class CalibrationError(QPassError):
    """Calibration data that cannot be used."""


class DataError(QPassError):
    """Images, arrays or checkpoints that cannot be read."""


class DistributedError(QPassError):
    """Processes of one job that disagree, or one of which has ended."""


class SourceError(QPassError):
    """A graph that does not compute what the caller's model computes."""


class UnsupportedError(QPassError):
    """Something that qpass recognizes but does not support."""


class LoweringError(QPassError):
    """A graph that cannot be converted to the deployed format."""


class VerifyError(QPassError):
    """A deployed file that does not compute what its graph computes."""


class AccuracyError(QPassError):
    """A network that loses more than it may, in every form that was tried.

    Attributes:
        table: The candidates that were tried.
    """

    table: str = ""


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error, or its class name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns a phrase that names the valid word closest to ``name``, or lists the valid ones."""
    options = sorted(set(valid))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return f"valid: {shown}" if options else "there is nothing to choose from"


def check_keys(data: Iterable[object], valid: Iterable[str], where: str) -> None:
    """Rejects a key that is not among the valid ones.

    Raises:
        ConfigError: Naming the key, and the valid one closest to it.
    """
    known = list(valid)
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}", where=where, hint=nearest(str(key), known))
