"""Output folders made from graphs at hand, without a run of ``qpass quantize``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import fx

import qpass
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
