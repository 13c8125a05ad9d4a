"""The command ``qpass demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from qpass.cli.options import COUNT, DATA, console
from qpass.cli.outputs import float_file, prepare_folder, write_files, write_report


@click.command()
@click.option("--output", type=DATA, default=Path("demo"), show_default=True, help="Folder to write to.")
@click.option("--config", "configs", multiple=True, help="A preset; may be given again  [default: w8a8, w4a8, repq-vit-w4a4]")
@click.option("--epochs", type=COUNT, default=40, show_default=True, help="Epochs of training.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(output: Path, configs: tuple[str, ...], epochs: int, as_json: bool) -> None:
    """Train a small ViT on scikit-learn's digits, quantize, export, verify and time it, offline."""
    import qpass
    from qpass.backends.onnxruntime import OrtSession
    from qpass.cli.run_folder import FLOAT, MODEL, Settings
    from qpass.data import ImageTransform
    from qpass.evaluation.top1 import evaluate_top1
    from qpass.zoo.digits import load_digits, train_digits_vit

    for config in configs:
        qpass.QuantConfig.from_any(config)
    digits = load_digits()
    prepare_folder(output)
    calibration = (output / "calibration.npy").resolve()
    np.save(calibration, digits.calibration.numpy())
    transform = ImageTransform(crop=8, resize=8, mean=(0.0,), std=(1.0,))
    settings = Settings(model="digits", calibration=str(calibration), transform=transform)
    network = train_digits_vit(digits, epochs=epochs)
    test = [digits.evaluation]
    base = evaluate_top1(network, test)
    rows = list[dict[str, Any]]()
    for config in configs or ("w8a8", "w4a8", "repq-vit-w4a4"):
        folder = output / config
        folder.mkdir(exist_ok=True)
        shown = settings.transform, [str(digit) for digit in range(10)]
        with float_file(network, digits.calibration, folder, shown) as float_network:
            qmodel = qpass.quantize_graph(network, [digits.calibration], config)
            figures = write_files(qmodel, float_network, folder)
        settings.write(folder)
        verified = qpass.verify_onnx(qmodel, folder / MODEL, digits.calibration[:16], strict=False)
        write_report(figures, folder, verified)
        timing = qpass.benchmark_latency(folder / MODEL, baseline=folder / FLOAT, batches=(8,), runs=100)
        row: dict[str, Any] = {
            "config": config,
            "top1_torch": evaluate_top1(qmodel, test).top1,
            "top1_onnxruntime": evaluate_top1(OrtSession(folder / MODEL), test).top1,
            "share_of_float_size": (folder / MODEL).stat().st_size / (folder / FLOAT).stat().st_size,
            "verified": verified.passed,
            "speedup": timing.rows[-1].speedup,
        }
        rows.append(row)
        if verified.verdict != "passed" and not as_json:
            console.print(str(verified), highlight=False)
    if as_json:
        click.echo(json.dumps({"folder": str(output), "top1_float": base.top1, "configs": rows}, indent=1))
        return
    table = Table("config", "top-1 torch", "onnxruntime", "file / float", "verified", "speed-up", title="Handwritten digits")
    table.columns[0].no_wrap = True
    table.add_row("float", f"{base.top1:.1%}", "", "", "", "")
    for row in rows:
        table.add_row(
            row["config"],
            f"{row['top1_torch']:.1%}",
            f"{row['top1_onnxruntime']:.1%}",
            f"{row['share_of_float_size']:.0%}",
            "yes" if row["verified"] else "NO",
            f"{row['speedup']:.2f}x",
        )
    console.print(table)
    console.print(f"files and report.html of each config: {output}/", highlight=False)
