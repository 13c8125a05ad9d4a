from __future__ import annotations

from pathlib import Path

import pytest

from qpass.cli.run_folder import BLOCKS, owned_folder
from qpass.errors import DataError


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("keeps_blocks", [False, True])
def test_a_link_in_the_place_of_blocks_is_refused_and_what_it_leads_to_stays(
    tmp_path: Path, keeps_blocks: bool, discard: bool
) -> None:
    output, other = tmp_path / "out", tmp_path / "other"
    output.mkdir()
    other.mkdir()
    (other / "mine").write_text("precious")
    (output / BLOCKS).symlink_to(other)
    refused = pytest.raises(DataError, match=r"blocks: is no folder; move it away")
    with refused, owned_folder(output, keeps_blocks=keeps_blocks, discard=discard):
        pass
    assert (other / "mine").read_text() == "precious"


def test_a_file_in_the_place_of_blocks_is_refused(tmp_path: Path) -> None:
    (tmp_path / BLOCKS).write_text("mine")
    refused = pytest.raises(DataError, match=r"blocks: is no folder; move it away")
    with refused, owned_folder(tmp_path, keeps_blocks=True, discard=True):
        pass
    assert (tmp_path / BLOCKS).read_text() == "mine"


def test_blocks_that_cannot_be_deleted_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BLOCKS).mkdir()

    def fails(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", fails)
    refused = pytest.raises(DataError, match=r"blocks: cannot be deleted \(Permission denied\)")
    with refused, owned_folder(tmp_path, keeps_blocks=True, discard=True):
        pass


def test_blocks_are_discarded_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / BLOCKS).mkdir()
    (tmp_path / BLOCKS / "a.safetensors").write_text("")
    for _ in range(2):
        with owned_folder(tmp_path, keeps_blocks=False, discard=True):
            assert not (tmp_path / BLOCKS).exists()
