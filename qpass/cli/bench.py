"""The command ``qpass bench``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpass.cli.options import COUNT, DATA, runtime_option
from qpass.cli.outcomes import add_to_report
from qpass.errors import ConfigError, DataError
from qpass.runtime.plain_data import printable

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import Explanation
    from qpass.backends.openvino import OpenVinoExplanation


@click.command()
@click.argument("path", type=DATA)
@click.option("--baseline", type=DATA, help="Float ONNX file  [default: float.onnx beside it]")
@click.option("--batch", "batches", multiple=True, type=COUNT, help="Batch size; may be given again  [default: 1 and 8]")
@click.option("--threads", multiple=True, type=COUNT, help="Threads in an operator; may be given again  [default: 1 and 2]")
@click.option("--runs", type=COUNT, default=30, show_default=True, help="Timed rounds for each setting.")
@click.option(
    "--explain", "explained", is_flag=True, help="Show where PATH's time goes instead, and what did not fuse and why."
)
@runtime_option("Where --explain runs PATH; openvino shows the precision in which each product ran.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    path: Path,
    baseline: Path | None,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    runs: int,
    explained: bool,
    runtime: str,
    as_json: bool,
) -> None:
    """Time PATH, an ONNX file or a folder from 'qpass quantize', against its float file, in alternation."""
    import qpass
    from qpass.cli.run_folder import FLOAT, MODEL, file_in
    from qpass.report.data import Speed

    file = file_in(path, MODEL) if path.is_dir() else path
    baseline = baseline or file.parent / FLOAT
    for needed in (file,) if explained else (file, baseline):
        if not needed.is_file():
            raise DataError(
                "no such file", where=str(needed), hint="" if needed == file else "name the float file with --baseline"
            )
    if runtime != "onnxruntime" and not explained:
        raise ConfigError(f"--runtime {runtime} without --explain", where="qpass bench", hint="timings are of onnxruntime")
    if explained:
        _explain(file, batches or (1,), threads or (1,), runs, runtime, as_json)
        return
    result = qpass.benchmark_latency(file, baseline=baseline, batches=batches or (1, 8), threads=threads or (1, 2), runs=runs)
    if path.is_dir() and baseline == path / FLOAT:
        rows = (row for row in result.rows if row.name != result.baseline)
        speed = tuple(Speed(row.speedup, row.batch, row.threads, result.machine) for row in rows)
        add_to_report(path, speed=speed)
    click.echo(json.dumps(result.to_dict(), indent=1) if as_json else printable(str(result)))


def _explain(file: Path, batches: tuple[int, ...], threads: tuple[int, ...], runs: int, runtime: str, as_json: bool) -> None:
    from qpass.backends.onnxruntime import explain
    from qpass.backends.openvino import explain_in_openvino

    chosen: Callable[..., Explanation | OpenVinoExplanation] = explain_in_openvino if runtime == "openvino" else explain
    found = [chosen(file, batch=batch, threads=count, runs=runs) for count in threads for batch in batches]
    click.echo(json.dumps([each.to_dict() for each in found], indent=1) if as_json else printable("\n\n".join(map(str, found))))
