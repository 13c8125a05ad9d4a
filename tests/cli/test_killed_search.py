"""``qpass quantize --max-drop``, killed, goes on with what it tried, and ends as if nobody had killed it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qpass.cli import main
from tests.models import small_vit

#: Candidates that are kept when the process is killed, before the last one.
KILLED_AFTER = 2


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("search")
    x = torch.randn(324, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = small_vit()(x).argmax(1).numpy()
    for name, part in (("calib", slice(24)), ("eval", slice(24, None))):
        np.savez(folder / f"{name}.npz", x=x[part].numpy(), y=labels[part])
    options = ["--calib", folder / "calib.npz", "--eval", folder / "eval.npz", "--max-drop", 12, "--config", "w2a8"]
    return ["quantize", "tests.models:small_vit", *map(str, [*options, "--no-verify"]), "--output"]


def finish(arguments: list[str], output: Path) -> tuple[bytes, str, str]:
    """Returns the file and the recipe, and what was written to standard error."""
    result = CliRunner().invoke(main, [*arguments, str(output)])
    assert result.exit_code == 0, result.output
    return (output / "model.onnx").read_bytes(), (output / "recipe.yaml").read_text(), result.stderr


def tried(output: Path) -> dict[str, object]:
    path = output / "candidates" / "trials.json"
    return json.loads(path.read_text())["trials"] if path.exists() else {}


@pytest.mark.nightly
def test_a_killed_search_goes_on(arguments: list[str], tmp_path: Path) -> None:
    *whole, _ = finish(arguments, tmp_path / "whole")
    expected = tried(tmp_path / "whole")
    assert len(expected) > KILLED_AFTER, "the search takes more candidates"
    output = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-m", "qpass", *arguments, str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(tried(output)) < KILLED_AFTER and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = tried(output)
    assert KILLED_AFTER <= len(before) < len(expected)
    assert not (output / "model.onnx").exists()
    *found, said = finish(arguments, output)
    assert found == whole
    assert f"resuming: {len(before)} candidates tried before" in said
    after = tried(output)
    assert after.keys() == expected.keys()
    assert {key: after[key] for key in before} == before, "none is tried again"
    assert not list(output.glob(".*draft*")), "drafts of the killed process are removed"
