"""Output folders made from graphs at hand, without a run of ``qpass quantize``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import fx

import qpass
from qpass.backends.onnx_qdq.export import export_quantized
from qpass.cli.run_folder import Settings
from tests.models import SMALL_VIT_IMAGES


def write_folder(folder: Path, graph: fx.GraphModule, file: Path, images: object = None) -> Path:
    """Writes graph, file, report and settings of the small ViT."""
    folder.mkdir(parents=True)
    qpass.save(graph, folder / "model.qpass")
    shutil.copyfile(file, folder / "model.onnx")
    (folder / "report.json").write_text(qpass.quantization_report(graph).to_json())
    if images is not None:
        (folder / "preprocessing.json").write_text(json.dumps(images))
    Settings(model="small_vit", calibration="", transform=SMALL_VIT_IMAGES).write(folder)
    return folder


def make_wrong(path: Path) -> None:
    """Makes one scale of a file 1 % too large."""
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if t.name == "gelu_quantizer.scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    onnx.save(model, path)


def write_wrong_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes commands write files in which one scale is 1 % too large."""

    def export(graph: fx.GraphModule, path: Path, **options: Any) -> Path:
        written = export_quantized(graph, path, **options)
        make_wrong(path)
        return written

    monkeypatch.setattr("qpass.backends.onnx_qdq.export.export_quantized", export)
