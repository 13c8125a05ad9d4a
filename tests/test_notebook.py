"""The notebooks run, and hold the outputs of a run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.documents import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_holds_the_output_of_one_run_in_order(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_says_what_is_stored(path: Path) -> None:
    """Cells print what they print in the stored notebook, but for figures, which depend on the machine."""
    pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
    pytest.importorskip("ipykernel", reason="pip install -e '.[docs]'")
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs" / "run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = json.loads(path.read_text(encoding="utf-8"))
    ran = module.execute(path)
    assert [kinds(cell) for cell in ran.cells] == [kinds(cell) for cell in stored["cells"]]
    texts = [text for cell in ran.cells for output in cell.get("outputs", []) for text in [output.get("text", "")]]
    assert any(text.startswith("PASSED") for text in texts)
    assert "NOT VERIFIED" not in "".join(texts)


def kinds(cell: dict[str, object]) -> list[str]:
    return [output["output_type"] for output in cell.get("outputs", [])]  # type: ignore[index, attr-defined]
