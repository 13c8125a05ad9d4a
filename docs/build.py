"""Builds the API reference from the docstrings: python docs/build.py [folder]  (default docs/api)."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

MODULES = (
    "qpass",
    "qpass.quantizers",
    "qpass.passes",
    "qpass.backends.onnx_qdq",
    "qpass.backends.onnxruntime",
    "qpass.report",
    "qpass.accuracy",
)

output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "api"
pdoc.render.configure(docformat="google")
pdoc.pdoc(*MODULES, output_directory=output)
pages = sorted(output.rglob("*.html"))
if not (output / "qpass.html").exists():
    raise SystemExit(f"no reference in {output}")
print(f"{len(pages)} pages in {output}")
