"""The house's rules: imports point downwards only, and importing qpass stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import qpass

ROOT = Path(qpass.__file__).parent
#: Layers from the ground up; a module may import its own layer and those before it.
LAYERS = (
    ("errors", "folder_lock", "quiet", "torch_modes", "version", "whole_file"),
    (
        "arguments",
        "calls",
        "capture_errors",
        "fields",
        "free_memory",
        "named_outputs",
        "records",
        "snapshot",
        "tensor_file",
        "storage",
    ),
    ("budget_config", "reconstruction_config", "quant_spec", "rules", "recipe_file", "config", "presets", "progress"),
    ("graph", "data", "distributed", "quantizers"),
    (
        "export_open",
        "size_lines",
        "functionalize",
        "given_masks",
        "input_check",
        "input_dims",
        "outputs",
        "refusals",
        "undisturbed",
    ),
    ("source_check",),
    (
        "allocation",
        "already_quantized",
        "device",
        "float_model",
        "observers",
        "one_row",
        "nn",
        "parts",
        "resume",
        "ridge",
        "rounding",
        "tensor_names",
        "trace",
    ),
    ("passes",),
    ("reconstruction",),
    ("report", "pipeline"),
    ("quantize", "serialize"),
    ("backends",),
    (
        "benchmark",
        "models",
        "evaluate",
        "evaluate_detection",
        "evaluate_parts",
        "demo",
        "detectors",
        "point_transformer",
        "run_folder",
    ),
    ("api",),
    ("__init__", "command_group", "cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), f"{path}: relative import"
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    assert {part(path) for path in ROOT.rglob("*.py")} == set(RANK)


def test_imports_point_downwards() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        for name in imports(path):
            if name.startswith("qpass."):
                target = name.split(".")[1]
                if RANK[target] > RANK[part(path)] and (part(path), target) != ("config", "presets"):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_only_backends_and_what_stands_on_them_know_onnx() -> None:
    for path in ROOT.rglob("*.py"):
        if RANK[part(path)] < RANK["backends"]:
            assert not {n for n in imports(path) if n.split(".")[0] in ("onnx", "onnxruntime", "onnx_ir", "onnxscript")}, path


def test_quantizers_know_no_graphs() -> None:
    for path in (ROOT / "quantizers").rglob("*.py"):
        assert not {n for n in imports(path) if "fx" in n.split(".") or n.startswith("qpass.graph")}, path


def test_import_is_light() -> None:
    code = "import sys, qpass; print([m for m in ('onnx', 'onnxruntime', 'matplotlib', 'timm', 'sklearn', 'jinja2') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_top_level_links_point_into_the_package() -> None:
    top = Path(__file__).parent.parent
    for name in ("passes", "backends"):
        assert (top / name).resolve() == (ROOT / name).resolve()
