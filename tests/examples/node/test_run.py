"""The example of node prints what out/run.py prints."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpass.backends.deployed.run import best, open_network, read_image, run
from tests.examples.javascript import EXAMPLES, needs_packages, node


@pytest.mark.slow
def test_it_prints_what_run_py_prints(exported: Path, tmp_path: Path) -> None:
    needs_packages("node")
    values = np.random.default_rng(0).integers(0, 256, (50, 70, 4), np.uint8)
    for image, name in ((Image.fromarray(values), "clear.png"), (Image.fromarray(values[..., 0]), "grey.png")):
        image.save(tmp_path / name)
        command = [node(), EXAMPLES / "node" / "run.mjs", exported, tmp_path / name]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        session, how = open_network(exported)
        expected = best(run(session, how, read_image(tmp_path / name, how)), how["classes"], 5)
        found = [re.fullmatch(r"([\d.]+)%  (.*)", line) for line in result.stdout.splitlines()]
        assert [line[2] for line in found if line] == [line.split("%  ")[1] for line in expected]
        assert [float(line[1]) for line in found if line] == pytest.approx(
            [float(line.split("%")[0]) for line in expected], abs=0.02
        )
