"""Packaging: only ``qpass`` is installed; ``passes`` and ``backends`` at the top level are links into it."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["qpass", "qpass.*"]),
    package_data={"qpass": ["report/*.html", "report/*.css", "report/*.js", "py.typed"]},
)
