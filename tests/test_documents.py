"""The documents: links lead somewhere, and recipes are valid. ``test_document_code.py`` runs their code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qpass.config import QuantConfig
from tests.documents import PAGES, RESULTS, ROOT, blocks, name_of


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", *RESULTS], ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    for target in targets:
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            lines = file.read_text(encoding="utf-8").splitlines()
            titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            QuantConfig.from_any(yaml.safe_load(block.code))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_of_code_exist(page: Path) -> None:
    """Paths that a page names in backticks: `qpass/api.py`, `tests/contracts/`."""
    named = re.findall(r"`((?:qpass|tests|benchmarks|docs)/(?!a/)[\w/.*-]+)`", page.read_text(encoding="utf-8"))
    assert not [path for path in named if not list(ROOT.glob(path.rstrip("/")))]
