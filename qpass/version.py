"""The version, apart from the package's imports so that packaging can read it."""

__version__ = "0.1.0"
