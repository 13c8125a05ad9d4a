"""What the site adds to the pages: links from names to the API reference, and pictures for both modes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parent.parent / "qpass" / "__init__.py"
_FENCE = re.compile(r"^(```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)
#: Code in backticks that is no link yet: `qpass.save`, `export_onnx(..., target=...)`.
_CODE = re.compile(r"(?<![\[`])`(?:qpass\.)?(\w+)(\([^`]*\))?`(?![`\]])")
#: A column that a page has no use for: its tables are wide, or it is alone in its part of the navigation.
_HIDES = {"README.md": "navigation", "docs/models.md": "toc", "docs/guarantees.md": "toc"}
_PICTURE = re.compile(r'<picture>\s*<source[^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>')


def _public_names() -> frozenset[str]:
    """Returns the functions and classes that ``import qpass`` has, read without importing it."""
    tree = ast.parse(_SOURCE.read_text(encoding="utf-8"))
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]  # type: ignore[attr-defined]
    return frozenset(name for name in ast.literal_eval(lists[0]) if not name.startswith("_"))


NAMES = _public_names()


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Returns the page as the site has it; on GitHub it reads as it is written."""
    if page is not None and page.file.src_uri in _HIDES:
        page.meta["hide"] = [_HIDES[page.file.src_uri]]
    elif page is not None and page.file.src_uri.startswith("benchmarks/"):
        page.meta["hide"] = ["toc"]
    markdown = markdown.replace(".ipynb)", ".md)")  # as build.py converts notebooks
    markdown = _PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", markdown)
    parts = _FENCE.split(markdown)
    parts[1::2] = [part.replace("```console", "```bash", 1) for part in parts[1::2]]  # no prompts: all of it is input
    parts[::2] = ["\n".join(_with_links(line) for line in part.split("\n")) for part in parts[::2]]
    return "".join(parts)


def _with_links(line: str) -> str:
    if line.startswith(("#", ":::")):
        return line
    return _CODE.sub(_link, line)


def _link(found: re.Match[str]) -> str:
    return f"[{found[0]}][qpass.{found[1]}]" if found[1] in NAMES else found[0]
