"""The command ``qpass demo``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.table import Table

from qpass.cli.options import COUNT, DATA, console
from qpass.cli.outputs import float_file, prepare_folder, write_all


@click.command()
@click.option("--output", type=DATA, default=Path("demo"), show_default=True, help="Folder to write to.")
@click.option("--config", "configs", multiple=True, help="A preset; may be given again  [default: w8a8, w4a8, repq-vit-w4a4]")
@click.option("--epochs", type=COUNT, default=40, show_default=True, help="Epochs of training.")
def demo(output: Path, configs: tuple[str, ...], epochs: int) -> None:
    """Train a small ViT on scikit-learn's digits, quantize, export, verify and time it, offline."""
    import qpass
    from qpass.backends.onnxruntime import OrtSession
    from qpass.cli.run_folder import FLOAT, MODEL, Settings
    from qpass.data import ImageTransform
    from qpass.evaluation.top1 import evaluate_top1
    from qpass.zoo.digits import load_digits, train_digits_vit

    for config in configs:
        qpass.QuantConfig.from_any(config)
    prepare_folder(output)
    digits = load_digits()
    calibration = (output / "calibration.npy").resolve()
    np.save(calibration, digits.calibration.numpy())
    transform = ImageTransform(crop=8, resize=8, mean=(0.0,), std=(1.0,))
    settings = Settings(model="digits", calibration=str(calibration), transform=transform)
    network = train_digits_vit(digits, epochs=epochs)
    test = [digits.evaluation]
    base = evaluate_top1(network, test)
    table = Table("config", "top-1 torch", "onnxruntime", "file / float", "verified", "speed-up", title="Handwritten digits")
    table.columns[0].no_wrap = True
    table.add_row("float", f"{base.top1:.1%}", "", "", "", "")
    for config in configs or ("w8a8", "w4a8", "repq-vit-w4a4"):
        folder = output / config
        folder.mkdir(exist_ok=True)
        shown = settings.transform, [str(digit) for digit in range(10)]
        with float_file(network, digits.calibration, folder, shown) as float_network:
            qmodel = qpass.quantize_graph(network, [digits.calibration], config)
            write_all(qmodel, float_network, folder, settings)
        verified = qpass.verify_onnx(qmodel, folder / MODEL, digits.calibration[:16], strict=False)
        timing = qpass.benchmark_latency(folder / MODEL, baseline=folder / FLOAT, batches=(8,), runs=100)
        table.add_row(
            config,
            f"{evaluate_top1(qmodel, test).top1:.1%}",
            f"{evaluate_top1(OrtSession(folder / MODEL), test).top1:.1%}",
            f"{(folder / MODEL).stat().st_size / (folder / FLOAT).stat().st_size:.0%}",
            "yes" if verified.passed else "NO",
            f"{timing.rows[-1].speedup:.2f}x",
        )
        if verified.verdict != "passed":
            console.print(str(verified), highlight=False)
    console.print(table)
    console.print(f"files and report.html of each config: {output}/", highlight=False)
