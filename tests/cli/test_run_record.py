"""What a run records is what was given and written, and survives reading."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import qpass
from qpass.cli import main
from qpass.cli.run_folder import Settings, read_settings
from qpass.cli.run_record import DigestOfBatches, command_line, file_digest, versions
from qpass.data import ImageTransform
from qpass.errors import DataError


def test_the_command_is_kept_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[tuple[str, ...]]()
    monkeypatch.setattr("qpass.cli.presets.preset_rows", lambda: kept.append(command_line()) or ())
    CliRunner().invoke(main, ["presets", "--json"])
    assert kept == [("qpass", "presets", "--json")]
    assert command_line() == ()


def test_versions_of_what_is_installed() -> None:
    found = versions()
    assert (found["qpass"], found["torch"]) == (qpass.__version__, torch.__version__.partition("+")[0])
    assert found["python"] == platform.python_version()


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    x = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = hashlib.sha256()
    for image in x.numpy():
        expected.update(b"torch.float32 (3, 2, 2)" + image.tobytes())
    for size in (2, 4):
        batches = DigestOfBatches(x.split(size))
        assert np.array_equal(torch.cat(list(batches)), x)
        assert batches.value == expected.hexdigest()
    changed = DigestOfBatches([x + 1e-7])
    assert len(list(changed)) == 1
    assert changed.value != expected.hexdigest()


def test_a_record_is_read_back_and_checked(tmp_path: Path) -> None:
    settings = Settings(
        model="m",
        calibration="c",
        transform=ImageTransform(),
        companions=("config.json",),
        command=("qpass", "quantize"),
        versions={"torch": "2"},
        digests={"model": "00"},
    )
    settings.write(tmp_path)
    assert read_settings(tmp_path) == settings
    text = (tmp_path / "settings.json").read_text()
    (tmp_path / "settings.json").write_text(text.replace('"torch": "2"', '"torch": 2'))
    with pytest.raises(DataError, match=r"settings\.json: is damaged: versions\.torch: got 2; expected a text"):
        read_settings(tmp_path)
