"""Builds the documentation site: python docs/build.py [folder]  (default site/).

The site has the pages of docs/, README and its neighbours, the tables of benchmarks/results, the
notebooks with their stored outputs, and the API reference from the docstrings. It needs no network,
neither to be built nor to be read, and opens from disk. A broken link fails the build.

The pages are copied into a temporary folder as they lie in the repository, so that a relative link
means the same on GitHub and in the site.
"""

from __future__ import annotations

import ast
import base64
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hooks import NAMES
from mkdocs.commands.build import build
from mkdocs.config import load_config

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
#: What is copied beside the pages of docs/.
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md")
RESULTS = ("*.md", "*.svg", "*.csv")
#: Pages that the navigation has only if they exist.
OPTIONAL = ("docs/browser.md",)
#: Pages of the API reference: title, and the modules that it describes.
REFERENCE = {
    "Recipes": ("Everything that a recipe can say.", "qpass.config"),
    "Data": ("Images, datasets and batches.", "qpass.data"),
    "Report": ("What a quantized network is made of, and what became of each tensor.", "qpass.report"),
    "Accuracy": ("Quantizing to a given accuracy.", "qpass.accuracy"),
    "onnxruntime": ("Sessions, verification and benchmarks.", "qpass.backends.onnxruntime"),
    "ONNX export": ("Lowering a graph to ONNX.", "qpass.backends.onnx_qdq"),
    "Quantizers": ("Tensors to integer codes and back.", "qpass.quantizers"),
    "Passes": ("The graph passes.", "qpass.passes"),
}


def stage(folder: Path) -> None:
    """Copies the pages into ``folder``, and writes those that are generated."""
    for name in PAGES:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("*.py", "*.yml", "*.ipynb", "__pycache__"))
    results = folder / "benchmarks" / "results"
    results.mkdir(parents=True)
    for pattern in RESULTS:
        for path in (ROOT / "benchmarks" / "results").glob(pattern):
            shutil.copy(path, results)
    for notebook in sorted(DOCS.rglob("*.ipynb")):
        convert(notebook, folder / notebook.relative_to(ROOT).with_suffix(".md"))
    reference = folder / "docs" / "reference"
    reference.mkdir()
    for title, (about, module) in REFERENCE.items():
        options = "{show_root_heading: false, show_root_toc_entry: false}"
        page = f"# {title}\n\n`{module}`: {about}\n\n::: {module}\n    options: {options}\n"
        (reference / f"{module}.md").write_text(page, encoding="utf-8")
    (reference / "qpass.md").write_text("\n\n".join(public_names()) + "\n", encoding="utf-8")


def public_names() -> Iterator[str]:
    """Yields the paragraphs of the page of ``import qpass``: functions in the order of a walk, then classes."""
    yield "# qpass"
    yield "What `import qpass` has. Functions are in the order in which they are used."
    tree = ast.parse((ROOT / "qpass" / "api.py").read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in NAMES]
    errors = sorted(name for name in NAMES if name.endswith("Error"))
    parts = {"Functions": functions, "Recipes": sorted(NAMES - set(functions) - set(errors)), "Errors": errors}
    for title, names in parts.items():
        yield f"## {title}"
        yield from (f"::: qpass.{name}\n    options: {{heading_level: 3}}" for name in names)


def convert(notebook: Path, page: Path) -> None:
    """Writes a notebook and its stored outputs as a page; pictures go to files beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    paragraphs = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        paragraphs.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = page.with_name(f"{page.stem}_{len(paragraphs)}.png")
                picture.write_bytes(base64.b64decode(data["image/png"]))
                paragraphs.append(f"![What the cell above draws]({picture.name})")
            else:
                paragraphs.append(f"``` {{ .text .output }}\n{''.join(data['text/plain'])}\n```")
    page.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


def present(nav: list[Any], folder: Path) -> Iterator[Any]:
    """Yields the entries of the navigation, without optional pages that do not exist."""
    for entry in nav:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            yield {title: list(present(target, folder))}
        elif target not in OPTIONAL or (folder / target).exists():
            yield entry


def main(output: Path) -> None:
    """Builds the site into ``output``."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(folder)
        config = load_config(str(DOCS / "mkdocs.yml"), docs_dir=scratch, site_dir=str(output.resolve()), strict=True)
        config.nav = list(present(config.nav or [], folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    pages = sorted(output.rglob("*.html"))
    if not (output / "docs" / "reference" / "qpass.html").exists():
        raise SystemExit(f"no reference in {output}")
    print(f"{len(pages)} pages in {output}: open {output / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
