from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.errors import ConfigError, DataError
from qpass.reconstruction.checkpoint import BlockCheckpoints
from qpass.runtime.tensor_file import read_tensors, write_tensors

TENSORS = {"layer.codes": torch.arange(12, dtype=torch.int8).reshape(3, 4), "layer.scale": torch.rand(3) + 0.1}
RECORD = {"path": "blocks.0", "error_before": 0.5, "error_after": 0.25, "steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    for block in ("blocks.0", "blocks.1"):
        BlockCheckpoints(path, "run").save(block, TENSORS, RECORD)
    return path


def test_a_block_comes_back_to_the_bit(folder: Path) -> None:
    kept = BlockCheckpoints(folder, "run").load("blocks.0")
    assert kept is not None
    assert kept[1] == RECORD
    assert all(torch.equal(kept[0][name], tensor) for name, tensor in TENSORS.items())
    assert BlockCheckpoints(folder, "run").load("blocks.2") is None


@settings(max_examples=300, derandomize=True, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_read_as_a_value(folder: Path, place: float, bit: int) -> None:
    content = bytearray((folder / "blocks.0.safetensors").read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    sound = (folder / "blocks.0.safetensors").read_bytes()
    try:
        (folder / "blocks.0.safetensors").write_bytes(content)
        with pytest.raises((DataError, ConfigError), match=r"blocks\.0\.safetensors.*delete it|another run"):
            BlockCheckpoints(folder, "run").load("blocks.0")
    finally:
        (folder / "blocks.0.safetensors").write_bytes(sound)


def test_a_block_in_the_place_of_another_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blocks.1.safetensors").write_bytes((folder / "blocks.0.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"is damaged, or another block's.*delete it: the block is learned again"):
        BlockCheckpoints(tmp_path, "run").load("blocks.1")


@pytest.mark.parametrize("change", ["value", "name", "shape", "record"])
def test_an_edited_block_is_refused(change: str, folder: Path, tmp_path: Path) -> None:
    header, tensors = read_tensors(folder / "blocks.0.safetensors", expected="")
    if change == "value":
        tensors["layer.scale"][0] = torch.nan
    elif change == "name":
        tensors["layer.other"] = tensors.pop("layer.scale")
    elif change == "shape":
        tensors["layer.codes"] = tensors["layer.codes"].reshape(4, 3)
    else:
        header["record"]["error_after"] = 0.1
    write_tensors(tmp_path / "blocks.0.safetensors", tensors, header)
    with pytest.raises(DataError, match="is damaged, or another block's"):
        BlockCheckpoints(tmp_path, "run").load("blocks.0")
