"""A file for given codes: all quantizers at once, or one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

import qpass.backends.onnxruntime.forced_run as forced_run
from qpass.backends.onnxruntime.forced import CodesOfFile
from qpass.backends.onnxruntime.perturbed import behind_quantizers
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs


def run_of(file: CodesOfFile, reference: TorchRun, images: Tensor) -> forced_run.ForcedRun:
    session = OrtSession(file.forced(values=True), folder=file.folder, optimized=False, arena=False)
    inputs = ModelInputs((), {"x": images})
    return forced_run.ForcedRun(file, session, inputs, reference.codes, outputs_of(session), values=True)


def outputs_of(session: OrtSession) -> list[str]:
    return [name for name in session.output_names if ".codes" not in name]


@pytest.mark.parametrize("at_once", [0, 2**29], ids=["one by one", "all together"])
def test_every_layer_computes_torchs_codes_from_torchs_codes(
    at_once: int, quantized: fx.GraphModule, exported: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forced_run, "AT_ONCE", at_once)
    reference = TorchRun(quantized, ModelInputs((images,), {}))
    run = run_of(CodesOfFile(exported, reference.quantizers, reference.codes), reference, images)
    for name, expected in reference.codes.items():
        different = (run.codes(name) != expected).double().mean()
        assert different < 1e-3, name
        torch.testing.assert_close(run.value(name).reshape(-1), reference.inputs[name].reshape(-1), rtol=1e-4, atol=1e-4)
    (output,) = run.outputs.values()
    torch.testing.assert_close(torch.from_numpy(output), torch.from_numpy(reference.outputs[0]), rtol=1e-4, atol=1e-4)


def test_an_error_stays_with_its_layer(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    """Other codes of one quantizer change those of its readers, and no others."""
    reference = TorchRun(quantized, ModelInputs((images,), {}))
    file = CodesOfFile(exported, reference.quantizers, reference.codes)
    changed = next(name for name in reference.codes if "gelu" in name)
    reference.codes[changed] = reference.codes[changed].roll(1, 0)
    run = run_of(file, reference, images)
    wrong = [name for name, codes in reference.codes.items() if (run.codes(name) != codes).double().mean() > 0.01]
    calls = {str(node.target): node for node in quantized.graph.nodes if node.op == "call_module"}
    reads = {name: behind_quantizers(quantized, calls[name].all_input_nodes) for name in reference.codes}
    readers = {name for name, nodes in reads.items() if calls[changed] in nodes}
    assert changed in wrong, "what it computes is not what was given"
    assert readers & set(wrong)
    assert set(wrong) <= {changed, *readers} < set(reference.codes)


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ({}, []),
        ({"a": 3, "b": 4, "c": 5}, [["a", "b"], ["c"]]),
        ({"a": 30, "b": 4}, [["a"], ["b"]]),
        ({"a": 4, "b": 4}, [["a", "b"]]),
    ],
)
def test_groups_are_as_large_as_fits(sizes: dict[str, int], groups: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forced_run, "AT_ONCE", 8)
    assert list(forced_run._groups(sizes)) == groups
