"""The house's rules: imports point downwards only, and importing qpass stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

import qpass

ROOT = Path(qpass.__file__).parent
#: Layers from the ground up; a module may import its own layer and those before it.
LAYERS = (
    ("errors", "progress", "version"),
    ("runtime",),
    ("config",),
    ("data", "quantizers"),
    ("nn", "observers", "solvers"),
    ("graph",),
    ("passes",),
    ("reconstruction",),
    ("report",),
    ("serialize", "compiler"),
    ("backends",),
    ("evaluation", "zoo"),
    ("accuracy",),
    ("api",),
    ("__init__", "cli", "__main__"),
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
                if RANK[target] > RANK[part(path)]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    names = {
        ".".join(("qpass", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    graph = {name: {found for found in imported_modules(path, names) if found != name} for name, path in names.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def imported_modules(path: Path, names: Collection[str]) -> set[str]:
    """Returns the modules that a file imports names from, also where these are modules themselves."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else str(node.module) for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(names)


def test_only_backends_and_what_stands_on_them_know_onnx() -> None:
    for path in ROOT.rglob("*.py"):
        if RANK[part(path)] < RANK["backends"]:
            assert not {n for n in imports(path) if n.split(".")[0] in ("onnx", "onnxruntime", "onnx_ir", "onnxscript")}, path


def test_quantizers_know_no_graphs() -> None:
    for path in (ROOT / "quantizers").rglob("*.py"):
        assert not {n for n in imports(path) if "fx" in n.split(".") or n.startswith("qpass.graph")}, path


def test_import_is_light() -> None:
    heavy = ("onnx", "onnxruntime", "openvino", "matplotlib", "timm", "torchvision", "sklearn", "jinja2", "torch._dynamo")
    code = f"import sys, qpass; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_top_level_links_point_into_the_package() -> None:
    top = Path(__file__).parent.parent
    for name in ("passes", "backends"):
        assert (top / name).resolve() == (ROOT / name).resolve()
