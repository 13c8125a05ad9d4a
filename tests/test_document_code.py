"""The code of every page runs as printed: its blocks in order, in one namespace and one folder, with small models."""

from __future__ import annotations

import functools
import linecache
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from click.testing import CliRunner

from qpass.backends.onnx_qdq import targets
from qpass.cli import main
from qpass.zoo import mask_rcnn, point_transformer
from tests.documents import PAGES, Block, blocks, name_of, prepare

#: Blocks that no test runs, each with its reason in the page.
NOT_RUN = 14
#: Pages whose code takes less than two seconds.
QUICK = ("docs/how-to/use-your-own-data.md", "docs/how-to/write-a-pass.md", "docs/how-to/write-a-quantizer.md")
#: What is run. Others show what is printed, or are recipes, which test_documents.py reads.
RUN = ("python", "console")


def code_of(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; networks are small, and those of timm need no download."""
    create, detector = timm.create_model, mask_rcnn.mask_rcnn
    small = {"pretrained": False, "embed_dim": 48, "depth": 1, "num_heads": 3}
    swin = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4, "pretrained": False}

    def create_small(name: str, **options: Any) -> Any:
        return create(name, **(options | ({} if "swin" in name else small)))

    def detect_small(name: str, *, classes: int, size: int) -> Any:
        sizes = {"size": 64, "channels": 16, "hidden": 24, "mask_layers": (8, 8)}
        found = {"box_detections_per_img": 2, "box_score_thresh": 0.0}
        return detector(name, classes=classes, backbone_options=swin, **sizes, **found)

    for network in (point_transformer.PointTransformer, point_transformer.PointTransformerSegmentation):
        few = functools.partial(network, points=64, stages=1, neighbours=4)
        monkeypatch.setattr(point_transformer, network.__name__, few)
    monkeypatch.setattr(timm, "create_model", create_small)
    monkeypatch.setattr(mask_rcnn, "mask_rcnn", detect_small)
    monkeypatch.setattr(targets, "TARGETS", dict(targets.TARGETS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cases() -> Iterator[Any]:
    for page in PAGES:
        if any(not block.not_run for block in code_of(page)):
            yield pytest.param(page, id=name_of(page), marks=() if name_of(page) in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("page", cases())
def test_the_code_of_a_page_runs_as_printed(page: Path, folder: Path) -> None:
    prepare(page.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "page"}
    for block in code_of(page):
        if block.not_run:
            continue
        if block.language == "python":
            file = f"<{name_of(page)}:{block.line}>"
            linecache.cache[file] = (len(block.code), None, block.code.splitlines(keepends=True), file)
            exec(compile(block.code, file, "exec"), names)
        else:
            for command in block.code.replace("\\\n", " ").splitlines():
                run(shlex.split(command, comments=True))


def run(words: list[str]) -> None:
    """Runs a command; those of qpass in this process."""
    if not words:
        return
    if "other/" in words and not Path("other").exists():  # the folder of another run
        shutil.copytree("out", "other")
    if words[0] == "qpass":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, (words, result.output[-2000:])
    elif words[:2] == ["python", "out/run.py"]:
        subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    else:
        raise AssertionError(f"no test runs {words[0]!r}: write <!-- not run: why --> above the block")


def test_what_is_not_run_is_counted_and_compiles() -> None:
    left_out = [block for page in PAGES for block in code_of(page) if block.not_run]
    assert len(left_out) == NOT_RUN, "\n".join(f"{block.not_run}: {block.code}" for block in left_out)
    for block in left_out:
        if block.language == "python":
            compile(block.code, "page", "exec")
