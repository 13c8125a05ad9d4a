"""The command ``qpass``."""

from qpass.cli.commands import main
from qpass.runtime.public_names import only

__all__ = ["main"]
__dir__ = only(__all__)
