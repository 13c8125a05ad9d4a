"""Quantization on a GPU: the same network as on the CPU up to float rounding, exported and verified like any other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import qpass
from qpass.config import QuantSpec
from qpass.data import KeptBatches, ModelInputs
from qpass.evaluation.top1 import evaluate_top1
from qpass.quantizers import QUANTIZERS, build_quantizer
from qpass.runtime.storage import Storage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FEW_STEPS = {"steps": 4, "batch_size": 4}
RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "closed form": "mixed-w4a5",
    "three stages": {"preset": "ias-vit-w6a6", "reconstruction": FEW_STEPS},
    "low rank": {"preset": "aiqvit-w6a6", "reconstruction": {**FEW_STEPS, "ranks": [2, 4], "search_steps": 2}},
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_gives_on_a_gpu_what_it_gives_on_the_cpu(name: str) -> None:
    """Fitted on the CPU and moved, as calibration does; in a backward pass and under autocast too."""
    x = torch.rand(64, 32, generator=torch.Generator().manual_seed(0))
    quantizer = build_quantizer(QuantSpec(bits=4, quantizer=name)).fit(x)
    wanted = quantizer(x)
    moved, y = copy.deepcopy(quantizer).cuda(), x.cuda().requires_grad_()
    found = moved(y)
    assert found.is_cuda
    assert (found.cpu() != wanted).float().mean() < 1e-3, "values on a tie may fall to either side"
    found.sum().backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert moved(y).isfinite().all()


def test_one_process_over_nccl_gives_what_no_group_gives(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    alone = qpass.quantize_graph(vit, [images], "w4a4", device="cuda", progress=False)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        together = qpass.quantize_graph(vit, [images], "w4a4", device="cuda", progress=False)
    finally:
        dist.destroy_process_group()
    with torch.no_grad():
        assert sqnr_db(alone(images), together(images)) > 60


def sqnr_db(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_is_quantized_on_a_gpu_and_verified(vit: nn.Module, images: Tensor, recipe: str, tmp_path: Path) -> None:
    graph = qpass.quantize_graph(vit, [images], RECIPES[recipe], device="cuda", progress=False)
    assert {parameter.device.type for parameter in vit.parameters()} == {"cpu"}, "the caller's model is where it was"
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, images).passed
    qpass.save(graph, tmp_path / "model.qpass")
    on_cpu = qpass.quantize_graph(vit, [images], RECIPES[recipe], progress=False)
    with torch.no_grad():
        expected, loaded = vit(images), qpass.load(tmp_path / "model.qpass")(images)
        assert sqnr_db(expected, loaded) > sqnr_db(expected, on_cpu(images)) - 3, "as accurate as on the CPU"


def test_a_model_that_lies_on_a_gpu_is_quantized_there(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    model = copy.deepcopy(vit).cuda()
    graph = qpass.quantize_graph(model, [images], "w8a8", progress=False)  # a loader gives tensors on the CPU
    assert graph(images.cuda()).is_cuda
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), images.cuda()).passed
    assert next(model.parameters()).is_cuda


def test_batches_that_are_cut_anew_are_kept_on_the_cpu(images: Tensor) -> None:
    storage, before = Storage(), torch.cuda.memory_allocated()
    batches = KeptBatches(storage)
    for image in images:
        batches.append(ModelInputs((image[None].cuda(),), {}))
    assert torch.cuda.memory_allocated() == before, "what is kept is on the CPU, wherever it came from"
    assert batches[0].args[0].is_cuda, "and comes back to where it was"
    one = storage.keep(images.cuda())
    assert one.read(torch.tensor([0])).is_cuda


def test_a_recipe_holds_no_batches_on_the_gpu(vit: nn.Module, images: Tensor) -> None:
    """Batches of three are put together anew; twice as many take no more of the GPU's memory."""
    many = images[:1].expand(4096, *images.shape[1:]).contiguous()
    peaks = []
    for rows in (2048, 4096):
        torch.cuda.reset_peak_memory_stats()
        qpass.quantize_graph(vit, many[:rows].split(3), "w8a8", device="cuda", progress=False)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] - peaks[0] < many.nbytes / 8


def test_labels_and_results_may_lie_on_a_gpu(vit: nn.Module, images: Tensor) -> None:
    labels = torch.arange(len(images)) % 10
    wanted = evaluate_top1(vit, [(images, labels)]).correct
    for labels_device in ("cpu", "cuda"):
        found = evaluate_top1(copy.deepcopy(vit).cuda(), [(images.cuda(), labels.to(labels_device))])
        assert torch.equal(found.correct, wanted)


def test_the_random_state_of_every_gpu_is_restored(vit: nn.Module, images: Tensor) -> None:
    before = torch.cuda.get_rng_state_all()
    qpass.quantize_graph(vit, [images], "w8a8", device="cuda", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.cuda.get_rng_state_all(), before, strict=True))
