"""The command ``qpass``."""

from qpass.cli.commands import main

__all__ = ["main"]
