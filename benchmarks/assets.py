"""Where the real weights and images lie; they are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import click


def assets() -> Path:
    """Returns the folder of assets: ``$QPASS_ASSETS``, else ``../shared/assets``."""
    folder = Path(os.environ.get("QPASS_ASSETS", "../shared/assets"))
    if not folder.is_dir():
        raise click.ClickException(f"no assets in {folder}: set QPASS_ASSETS to the folder that holds deit_tiny_in1k")
    return folder
