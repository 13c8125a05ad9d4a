"""Takes timm architectures with random weights the whole way: traced, quantized, exported, verified.

Run: python benchmarks/architectures.py [--models NAME ...]
Writes: benchmarks/results/architectures.md and architectures.json.
"""

from __future__ import annotations

import collections
import gc
import json
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import timm
import torch

import qpass

RESULTS = Path(__file__).parent / "results"
#: Name -> arguments beside the name; some are made small so that the sweep fits a laptop.
MODELS: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {},
    "vit_relpos_small_patch16_224": {},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "flexivit_small": {},
    "swin_tiny_patch4_window7_224": {},
    "swinv2_tiny_window8_256": {},
    "beit_base_patch16_224": {"depth": 4},
    "eva02_tiny_patch14_224": {},
    "cait_xxs24_224": {},
    "xcit_nano_12_p16_224": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "efficientformer_l1": {},
    "levit_128s": {},
    "pvt_v2_b0": {},
    "twins_pcpvt_small": {},
    "twins_svt_small": {},
    "vit_small_patch14_dinov2": {"img_size": 224},
    "vit_small_patch16_dinov3": {},
    "davit_tiny": {},
    "maxvit_rmlp_pico_rw_256": {},
    "coat_lite_tiny": {},
    "convit_tiny": {},
    "crossvit_tiny_240": {},
    "pit_ti_224": {},
    "tiny_vit_5m_224": {},
    "hiera_tiny_224": {},
    "mixer_s16_224": {},
    "vit_base_patch16_siglip_224": {"depth": 4},
    "naflexvit_base_patch16_gap": {"depth": 4},
    "nest_tiny": {},
    "gcvit_xxtiny": {},
    "volo_d1_224": {},
    "efficientvit_b0": {},
    "visformer_tiny": {},
    "poolformerv2_s12": {},
}


@dataclass
class Row:
    """What became of one architecture."""

    model: str
    dynamic_batch: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    stayed_float: dict[str, int] = field(default_factory=dict)
    verified: bool = False
    ties: int = 0
    wrong: int = 0
    error: str = ""


def run(name: str, options: dict[str, object], config: str) -> Row:
    """Takes one architecture the whole way."""
    torch.manual_seed(0)
    row = Row(name)
    try:
        model = timm.create_model(name, **options).eval()
        size = model.pretrained_cfg["input_size"]
        if "img_size" in options:
            size = (size[0], options["img_size"], options["img_size"])
        qmodel = qpass.quantize_graph(model, [torch.randn(4, *size)], config, progress=False)
        report = qpass.quantization_report(qmodel)
        row.dynamic_batch, row.counts = report.dynamic_batch, report.counts
        row.stayed_float = dict(collections.Counter(f"{kind}: {reason}" for kind, _, reason in report.stayed_float))
        with tempfile.TemporaryDirectory() as folder:
            path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
            batch = 2 if report.dynamic_batch else qmodel.meta["qpass"]["example"][0][0].shape[0]
            verified = qpass.verify_onnx(qmodel, path, torch.randn(batch, *size), strict=False)
        layers = [layer for check in verified.checks for layer in check.layers]
        row.verified, row.ties = verified.passed, sum(layer.ties for layer in layers)
        row.wrong = sum(layer.wrong for layer in layers)
        row.error = "; ".join(failure for check in verified.checks for failure in check.failures)[:300]
    except Exception as error:  # a row says what failed, and the sweep goes on
        row.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


def write(rows: list[Row], config: str) -> None:
    """Writes the table."""
    RESULTS.mkdir(exist_ok=True)
    passed = sum(row.verified for row in rows)
    lines = [
        "# Architectures",
        "",
        f"Written by `python benchmarks/architectures.py`: timm {timm.__version__}, torch {torch.__version__}, random weights, {config}.",
        f"**{passed} of {len(rows)}** traced, quantized, exported and verified: codes equal save for counted ties.",
        "",
        "| model | batch | Linears | attention matmuls | patch or 1x1 convolutions | stayed float | ties | verified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = "; ".join(f"{n} {why}" for why, n in row.stayed_float.items()) or "nothing"
        counts = " | ".join(str(row.counts.get(kind, 0)) for kind in ("linear", "matmul", "conv2d"))
        verdict = "yes" if row.verified else f"no: {row.error}"
        batch = "dynamic" if row.dynamic_batch else "fixed"
        lines.append(f"| {row.model} | {batch} | {counts} | {kept} | {row.ties} | {verdict} |")
    (RESULTS / "architectures.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (RESULTS / "architectures.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


@click.command()
@click.option("--models", multiple=True, help="Only these; rows of the others are kept  [default: all]")
@click.option("--config", default="w8a8", show_default=True)
def main(models: tuple[str, ...], config: str) -> None:
    """Run the sweep."""
    warnings.simplefilter("ignore")
    kept = json.loads((RESULTS / "architectures.json").read_text(encoding="utf-8")) if models else []
    rows = {row["model"]: Row(**row) for row in kept}
    for name in models or MODELS:
        row = rows[name] = run(name, MODELS[name], config)
        click.echo(f"{name:<34} {'verified' if row.verified else 'FAILED'} {row.counts} {row.error}")
        gc.collect()
    write([rows[name] for name in MODELS if name in rows], config)


if __name__ == "__main__":
    main()
