"""The files of a commit in a folder of their own."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parent.parent


def git(*arguments: str) -> bytes:
    """Returns what git prints."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout


def extract(commit: str, folder: Path) -> None:
    """Writes the files of a commit into a folder."""
    with tarfile.open(fileobj=BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")
