"""Tab completion shows public names, and no modules that a package happens to import."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import qpass

ROOT = Path(qpass.__file__).parent
#: Packages that export names.
PACKAGES = [
    ".".join(("qpass", *file.parent.relative_to(ROOT).parts))
    for file in sorted(ROOT.rglob("__init__.py"))
    if "__all__" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_its_public_names_alone(name: str) -> None:
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, public) for public in dir(package))
