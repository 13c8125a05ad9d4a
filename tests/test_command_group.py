from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", ["--help", "quantize --help"])
def test_a_reader_that_stops_early_makes_no_noise(arguments: str) -> None:
    command = f"{sys.executable} -W ignore -m qpass {arguments} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
