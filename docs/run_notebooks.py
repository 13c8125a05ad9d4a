"""Runs the notebooks and stores their outputs: python docs/run_notebooks.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"


def execute(notebook: Path) -> nbformat.NotebookNode:
    """Returns a notebook with its outputs of now; what its cells write goes to a temporary folder.

    Progress and warnings (standard error) are left out, and so are the times of the run.

    Raises:
        CellExecutionError: If a cell fails.
    """
    found = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(found, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in found.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    found.metadata = {"kernelspec": found.metadata.kernelspec, "language_info": {"name": "python"}}
    return found


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(path)
