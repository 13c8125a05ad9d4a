"""Two folders side by side, in the terminal and as JSON, with figures read from both reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from torch import fx

import qpass
from qpass.cli import main
from qpass.cli.options import console
from qpass.report.data import Speed, Verified


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No path of a temporary folder wraps. A console takes its width from ``COLUMNS`` when it is made, not later."""
    monkeypatch.setattr(console, "_width", 500)


@pytest.fixture(scope="module")
def folders(
    quantized: fx.GraphModule, quantized_4bit: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("compare")
    for name, graph, passed in (("a", quantized, True), ("b", quantized_4bit, False)):
        (root / name).mkdir()
        report = replace(
            qpass.quantization_report(graph),
            sizes={"file float.onnx": 4_000_000, "file model.onnx": 1_000_000},
            speed=(Speed(2.0, 8, 2), Speed(1.5, 1, 1)),
            verified=Verified(passed, "a verdict", 8),
        )
        (root / name / "report.json").write_text(report.to_json())
    return root / "a", root / "b"


def test_figures_and_tensors(folders: tuple[Path, Path], quantized: fx.GraphModule, quantized_4bit: fx.GraphModule) -> None:
    result = run("compare", *folders, "--top", 3)
    assert result.exit_code == 0, result.output
    lines = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") > 3}
    assert "w8a8" in lines["recipe"]
    assert "repq-vit-w4a4" in lines["recipe"]
    assert lines["files, MB"].count("1.00, 25 % of float") == 2
    assert lines["speed over float"].count("1.50x, batch 1, 1 thread") == 2
    assert [cell.strip() for cell in lines["verified"].split("│")[2:4]] == ["yes", "NO"]
    plain = json.loads(run("compare", *folders, "--json", "--top", 1000).stdout)
    assert [side["recipe"] for side in plain["runs"]] == ["w8a8", "repq-vit-w4a4"]
    assert [side["verified"]["passed"] for side in plain["runs"]] == [True, False]
    assert {"setting": "activation.bits", "values": ["8", "4"]} in plain["settings"]
    gains = [abs(tensor["gain_db"]) for tensor in plain["tensors"]]
    assert gains == sorted(gains, reverse=True)
    first, second = ({row.label: row for row in qpass.quantization_report(g).tensors} for g in (quantized, quantized_4bit))
    for tensor in plain["tensors"]:
        rows = first[tensor["tensor"]], second[tensor["tensor"]]
        assert tensor["bits"] == [row.bits for row in rows]
        assert tensor["gain_db"] == rows[1].sqnr_db - rows[0].sqnr_db
    shown = [name for name in lines if " · " in name]
    assert shown == [tensor["tensor"] for tensor in plain["tensors"][:3]]


def test_paths_are_not_cut_in_a_narrow_terminal(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 70)
    narrow = tmp_path / "a"
    narrow.mkdir()
    text = (
        (folders[0] / "report.json")
        .read_text()
        .replace("blocks.0.mlp.fc1", "a.long.path.of.many.modules.that.is.no.longer.short")
    )
    (narrow / "report.json").write_text(text)
    result = run("compare", narrow, folders[1])
    assert "…" not in result.stdout.partition("tensors whose")[2]


def test_a_page_and_what_is_unfair(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = folders
    other = tmp_path / "other"
    other.mkdir()
    data = json.loads((second / "report.json").read_text())
    (other / "report.json").write_text(json.dumps({**data, "model": "Another", "seed": 7}))
    result = run("compare", first, other, "--output", tmp_path / "page.html")
    assert "warning: The models differ" in result.stderr
    assert "warning: Errors were measured on different samples" in result.stderr
    assert f"page: {tmp_path / 'page.html'}" in result.stdout
    assert "Settings that differ" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_files_are_timed_against_each_other(
    folders: tuple[Path, Path], exported: Path, exported_4bit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, file in zip(folders, (exported, exported_4bit), strict=True):
        (folder / "model.onnx").write_bytes(file.read_bytes())
    found = json.loads(run("compare", *folders, "--speed", "--json").stdout)["speed"]
    assert found["baseline"] == str(folders[0])
    assert [row["name"] for row in found["rows"]] == list(map(str, folders))


def test_what_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for message, *arguments in (
        ("has no report.json", "compare", folders[0], tmp_path),
        ("is compared with itself", "compare", folders[0], folders[0], "--speed"),
        ("Missing argument 'SECOND'", "compare", folders[0]),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
