"""What the site makes of a page that GitHub shows as it is written."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

import qpass
from tests.documents import ROOT


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_public_names_lead_to_the_reference(hooks: ModuleType) -> None:
    assert hooks.on_page_markdown("a `save` b") == "a [`save`][qpass.save] b"
    assert hooks.on_page_markdown("`qpass.save(graph, path)`") == "[`qpass.save(graph, path)`][qpass.save]"
    assert set(hooks.NAMES) == {name for name in qpass.__all__ if not name.startswith("_")}


@pytest.mark.parametrize(
    "text",
    ["`other`", "[`save`](save.md)", "# `save`", "```python\n`save`\n```"],
)
def test_other_code_links_and_blocks_stay(hooks: ModuleType, text: str) -> None:
    assert hooks.on_page_markdown(text) == text


def test_a_picture_follows_the_palette(hooks: ModuleType) -> None:
    text = '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="d.svg">\n  <img alt="A" src="l.svg">\n</picture>'
    assert hooks.on_page_markdown(text) == "![A](l.svg#only-light)\n![A](d.svg#only-dark)"


def test_notebooks_are_pages(hooks: ModuleType) -> None:
    assert hooks.on_page_markdown("[n](a/n.ipynb)") == "[n](a/n.md)"


def test_commands_are_input(hooks: ModuleType) -> None:
    assert hooks.on_page_markdown("```console\nqpass demo\n```") == "```bash\nqpass demo\n```"
