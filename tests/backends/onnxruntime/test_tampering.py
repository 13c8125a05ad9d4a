"""Every initializer of a file is changed in turn, and every file is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.verification import Verification
from qpass.data import ModelInputs
from qpass.errors import VerifyError
from qpass.graph.parts import parts_of, record_calls
from tests.graph.test_parts import Shell
from tests.graph.test_parts import images as pictures
from tests.models import ManyOutputs
from tests.tampering import NO_CHANGE, Tampering, tamperings

Case = tuple[fx.GraphModule, Path, ModelInputs]
#: Of which changes one in so many is tried in every run; all of them nightly.
SAMPLED = 11


def vit_case(request: pytest.FixtureRequest, recipe: str) -> list[Case]:
    images: Tensor = request.getfixturevalue("images")
    pairs = {
        "w8a8": ("quantized", "exported"),
        "repq-vit-w4a4": ("quantized_4bit", "exported_4bit"),
        "codebook-w3a3": ("quantized_codebook", "exported_codebook"),
    }
    inputs = ModelInputs((images,), {})
    if recipe in pairs:
        graph, path = (request.getfixturevalue(name) for name in pairs[recipe])
        return [(graph, path, inputs)]
    graph = qpass.quantize_graph(request.getfixturevalue("vit"), [images], recipe, progress=False)
    return [(graph, qpass.export_onnx(graph, request.getfixturevalue("tmp_path") / "vit.onnx"), inputs)]


def many_outputs(request: pytest.FixtureRequest) -> list[Case]:
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    graph = qpass.quantize_graph(ManyOutputs().eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, request.getfixturevalue("tmp_path") / "many.onnx")
    return [(graph, path, ModelInputs((x,), {}))]


def detector(request: pytest.FixtureRequest) -> list[Case]:
    torch.manual_seed(0)
    shell: nn.Module = Shell().eval()
    batch = ModelInputs((pictures((16, 24), (24, 16)),), {})
    quantized = qpass.quantize_graph(shell, [batch], "w8a8", submodules=["pyramid", "head"], progress=False)
    folder = qpass.export_onnx(quantized, request.getfixturevalue("tmp_path") / "parts")
    calls = record_calls(quantized, ["pyramid", "head"], [batch])
    return [(part, folder / f"{name}.onnx", calls[name][0]) for name, part in parts_of(quantized).items()]


CASES = {
    "vit w8a8": lambda request: vit_case(request, "w8a8"),
    "vit repq-vit-w4a4": lambda request: vit_case(request, "repq-vit-w4a4"),
    "vit mixed-w3a4": lambda request: vit_case(request, "mixed-w3a4"),
    "vit codebook-w3a3": lambda request: vit_case(request, "codebook-w3a3"),
    "many outputs": many_outputs,
    "detector in parts": detector,
}


def refused(case: Case, folder: Path, every: int = 1) -> int:
    """Changes a file in every way, or in one of so many, and returns how many there were, all of them refused by name."""
    graph, path, inputs = case
    verification, tried = Verification(graph, inputs), 0
    for number, tampering in enumerate(tamperings(path, graph, inputs)):
        start, end = NO_CHANGE
        if number % every or (tampering.name.startswith(start) and tampering.name.endswith(end)):
            continue
        tried += 1
        changed = folder / "changed.onnx"
        changed.write_bytes(tampering.model.SerializeToString())
        message = refusal(verification, changed)
        assert message, f"{tampering.name}: {tampering.what}: passed"
        assert is_named(message, tampering, graph), f"{tampering.name}: {tampering.what}: {message}"
    return tried


def refusal(verification: Verification, path: Path) -> str:
    """Returns why a file is refused, "" if it is not."""
    try:
        verification.of(path)
    except VerifyError as error:
        return str(error)
    return ""


def is_named(message: str, tampering: Tampering, graph: fx.GraphModule) -> bool:
    """Tells whether a message names the layer or quantizer that a constant belongs to, or what reads it or its values.

    Attention blocks share the constants of their rescaling, which have the name of the first of them. onnxruntime
    names the node that it cannot run, which may come later than the one that reads the constant.
    """
    constants = (tampering.name, tampering.what.removeprefix("swapped with "))
    owners = [name.partition(".")[0] for name in constants]
    modules = dict(graph.named_modules())
    readers = reading(tampering.model, constants, indirectly="cannot run it" in message)
    if owners[0] in modules:
        return any(name and name in message for name in (*owners, *readers, *products_of(graph, owners)))
    known = [*modules, *readers, *(output.name for output in tampering.model.graph.output)]
    return any(name and name in message for name in known) or "Op (" in message


def products_of(graph: fx.GraphModule, quantizers: Collection[str]) -> Iterator[str]:
    """Yields the names of the nodes that read quantizers' values, behind operators that move them."""
    nodes = [node for node in graph.graph.nodes if node.target in quantizers]
    for node in nodes:
        for user in node.users:
            yield user.name
            if user.op == "call_function" and "matmul" not in user.name:
                nodes.append(user)


def reading(model: onnx.ModelProto, constants: Collection[str], *, indirectly: bool) -> list[str]:
    """Returns the names of the nodes that read constants, or what is computed from them."""
    values, readers = set(constants), []
    for node in model.graph.node:
        if values.intersection(node.input):
            readers.append(node.name)
            values.update(node.output if indirectly else ())
    return readers


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("case", ["vit repq-vit-w4a4", "many outputs", "detector in parts"])
def test_one_change_in_so_many_is_refused(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert sum(refused(each, tmp_path, SAMPLED) for each in CASES[case](request)) >= 4


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", sorted(CASES))
def test_every_change_of_every_initializer_is_refused(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tried = [refused(each, tmp_path) for each in CASES[case](request)]
    print(f"{case}: {tried} changed files refused")
    assert min(tried) > 10
