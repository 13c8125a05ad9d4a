"""README and docs: links lead somewhere, recipes are valid, and the code runs as printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import yaml
from PIL import Image

from qpass.config import QuantConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A block with this comment above it is only compiled.
NOT_RUN = "<!-- not run: "


def blocks(page: Path, language: str) -> Iterator[tuple[str, bool]]:
    """Yields the code of each block, and whether it is to be run."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        before = text[: found.start()].rstrip().splitlines()
        yield found[1], not (before and before[-1].startswith(NOT_RUN))


def identify(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=identify)
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


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_code_compiles_and_recipes_are_valid(page: Path) -> None:
    for code, _ in blocks(page, "python"):
        compile(code, page.name, "exec")
    for code, _ in blocks(page, "yaml"):
        QuantConfig.from_any(yaml.safe_load(code))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user with images; timm's models are small and need no download."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 40, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    create = timm.create_model
    small = {"pretrained": False, "embed_dim": 48, "depth": 1, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(options | small)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "tutorial.md"], ids=identify)
def test_the_code_of_a_page_runs_as_printed(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {}
    ran = 0
    for code, run in blocks(page, "python"):
        if run:
            exec(compile(code, page.name, "exec"), names)
            ran += 1
    assert ran > 0
    assert list(folder.glob("*.onnx"))
