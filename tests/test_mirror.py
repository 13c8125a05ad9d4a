"""Every module with code of its own has a test module: ``qpass/a/b.py`` has ``tests/a/test_b.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qpass

ROOT = Path(qpass.__file__).parent
TESTS = Path(__file__).parent
#: Modules, or packages of modules, whose tests have other names, with the files that hold them and the reason.
ELSEWHERE: dict[str, tuple[tuple[str, ...], str]] = {
    "backends/onnx_qdq/lowerings.py": (("contracts/test_quantizers.py",), "each is compared with its quantizer"),
    "backends/onnx_qdq/weights.py": (
        ("backends/onnx_qdq/test_convolutions.py", "backends/onnx_qdq/test_pack_weights.py"),
        "a file's weights are compared with its graph's",
    ),
    "backends/onnxruntime/exact_outputs.py": (
        ("backends/onnxruntime/test_layer_output_check.py",),
        "what the check of outputs compares with",
    ),
    "backends/onnxruntime/uncertainty.py": (
        ("backends/onnxruntime/test_verification.py", "backends/onnxruntime/test_value_bound.py"),
        "the bounds of a verification",
    ),
    "backends/parts.py": (("graph/test_parts.py",), "models in parts, from capture to file"),
    "cli/": (("cli/test_commands.py", "cli/test_run_folder.py"), "commands are run as a user runs them"),
    "config/": (("config/test_recipe.py",), "a recipe is made of all of them"),
    "data/decode.py": (("data/test_images.py",), "images are decoded where they are read"),
    "data/image_source.py": (("data/test_images.py",), "what paths are opened as"),
    "graph/fx_rule.py": (("graph/test_rewrite.py",), "rules are applied to graphs of torch.fx there"),
    "graph/capture/export_open.py": (
        ("graph/capture/test_trace.py", "graph/capture/test_one_row.py"),
        "the first step of tracing",
    ),
    "graph/capture/size_lines.py": (
        ("graph/capture/test_capture_errors.py", "graph/capture/test_one_row.py"),
        "what errors name",
    ),
    "graph/capture/functionalize/": (
        ("graph/capture/functionalize/test_writes.py", "graph/capture/functionalize/test_regions.py"),
        "one rewrite in several modules, tested by what is written",
    ),
    "passes/analysis/residual_stream.py": (("passes/test_rotate_residual.py",), "the pass that rotates it"),
    "quantizers/__init__.py": (("quantizers/test_build_quantizer.py",), "one function"),
    "reconstruction/block.py": (("reconstruction/test_reconstruct.py", "reconstruction/test_learner.py"), "one block of a run"),
    "quantizers/byte_table.py": (("quantizers/test_codebook.py",), "the tables of the free levels"),
    "solvers/codebook_levels.py": (("solvers/test_round_to_codebook.py",), "one alternation in three modules"),
    "solvers/coordinate_descent.py": (("solvers/test_round_to_codebook.py",), "one alternation in three modules"),
    "serialize/module_checks.py": (("serialize/test_modules.py", "serialize/test_hostile.py"), "where modules are read"),
    "serialize/nodes.py": (("serialize/test_hostile.py", "serialize/test_beside.py"), "forged files"),
    "serialize/regions.py": (("serialize/test_hostile.py", "serialize/test_models.py"), "forged files"),
}


def functions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def mirror(path: Path) -> Path:
    own = path.relative_to(ROOT)
    name = own.parent.name if own.name == "__init__.py" else own.stem
    return TESTS / own.parent / f"test_{name}.py"


def elsewhere(path: Path) -> str | None:
    own = path.relative_to(ROOT).as_posix()
    return next((entry for entry in ELSEWHERE if own == entry or (entry.endswith("/") and own.startswith(entry))), None)


MODULES = [path for path in sorted(ROOT.rglob("*.py")) if functions(path)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_with_code_of_its_own_has_a_test_module(path: Path) -> None:
    if not mirror(path).is_file():
        assert elsewhere(path), f"write tests/{mirror(path).relative_to(TESTS)}, or say in ELSEWHERE where its tests are"


@pytest.mark.parametrize("entry", ELSEWHERE)
def test_what_is_tested_elsewhere_is(entry: str) -> None:
    files, reason = ELSEWHERE[entry]
    assert reason
    left = [path for path in MODULES if elsewhere(path) == entry and not mirror(path).is_file()]
    assert left, "nothing is tested elsewhere any more: remove the entry"
    for name in files:
        assert (TESTS / name).is_file(), name
