"""Adds what ``verify`` and ``bench`` find to the report of a folder, so that its page is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpass.cli.options import note
from qpass.errors import DataError
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.plain_data import printable

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import VerifyReport
    from qpass.report.data import Verified

#: Characters of a verdict that the report keeps: names in a file may be long.
_SUMMARY = 1_000


def add_to_report(folder: Path, **outcomes: Any) -> None:
    """Rewrites report.json and report.html with these fields; warns if that is not possible.

    A folder without a report stays as it is.

    Args:
        folder: The folder.
        outcomes: Fields of ``ReportData``.
    """
    from qpass.cli.run_folder import FIGURES, REPORT, read_report

    if not (folder / FIGURES).is_file():
        return
    try:
        report = replace(read_report(folder), **outcomes)
        page = report.to_html()
        write_whole(folder / FIGURES, report.to_json())
        write_whole(folder / REPORT, page)
    except DataError as error:
        note(f"warning: the report does not have this result: {error}")


def verdict_of(result: VerifyReport) -> Verified:
    """Returns a verdict as the report keeps it."""
    from qpass.report.data import Verified

    return Verified(result.passed, printable(result.headline)[:_SUMMARY], result.samples)
