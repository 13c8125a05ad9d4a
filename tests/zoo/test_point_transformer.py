"""Against the definitions written as loops, and the real network on real objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.evaluation.top1 import evaluate_top1
from qpass.zoo.point_transformer import (
    PointTransformer,
    PointTransformerSegmentation,
    TransitionUp,
    VectorAttention,
    farthest_points,
    nearest_points,
    take_points,
)
from qpass.zoo.timm_models import create_model


@pytest.fixture(scope="module")
def clouds() -> Tensor:
    return 2 * torch.rand(6, 64, 6, generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return PointTransformer(64, 5, stages=2, neighbours=8).eval()


def test_each_point_is_the_farthest_from_those_before_it(clouds: Tensor) -> None:
    xyz = clouds[..., :3]
    for cloud, chosen in zip(xyz, farthest_points(xyz, 10), strict=True):
        assert chosen[0] == 0
        for position in range(1, 10):
            distance = torch.cdist(cloud, cloud[chosen[:position]]).amin(1)
            assert distance[chosen[position]] == pytest.approx(distance.max().item(), abs=1e-6)


def test_the_nearest_points(clouds: Tensor) -> None:
    xyz = clouds[..., :3]
    found = nearest_points(xyz[:, :7], xyz, 5)
    expected = torch.cdist(xyz[:, :7], xyz).argsort(-1)[..., :5]
    assert torch.equal(found.sort().values, expected.sort().values)
    assert nearest_points(xyz[:, :7], xyz[:, :3], 5).shape == (6, 7, 3), "all of a smaller cloud"


def test_of_points_at_one_distance_the_first_is_the_nearer() -> None:
    around = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0.5, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 1, 0], [0, 0, -1]])
    # Any order would do for a topk that breaks ties as it likes, so many clouds are asked: the same points in other places.
    for seed in range(20):
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        (found,) = nearest_points(torch.zeros(1, 1, 3), around[order][None], 4)[0]
        nearest = int((order == 2).nonzero())
        assert found.tolist() == [nearest, *(i for i in range(7) if i != nearest)][:4]


def test_points_are_taken_by_index(clouds: Tensor) -> None:
    index = torch.randint(64, (6, 3, 4), generator=torch.Generator().manual_seed(1))
    taken = take_points(clouds, index)
    assert torch.equal(taken[2, 1, 3], clouds[2, index[2, 1, 3]])
    assert taken.shape == (6, 3, 4, 6)


def test_attention_is_equation_3(clouds: Tensor) -> None:
    torch.manual_seed(1)
    layer = VectorAttention(6, 4).eval().double()
    x, xyz = clouds.double(), clouds[..., :3].double()
    found = layer(xyz, x)
    hidden = layer.fc1(x)
    for b, i in ((0, 0), (3, 17)):
        near = torch.cdist(xyz[b, i : i + 1], xyz[b])[0].argsort()[:4]
        delta = torch.stack([layer.fc_delta(xyz[b, i] - xyz[b, j]) for j in near])
        scores = torch.stack(
            [layer.fc_gamma(layer.phi(hidden[b, i]) - layer.psi(hidden[b, j]) + d) for j, d in zip(near, delta, strict=True)]
        )
        weights = torch.exp(scores / 8) / torch.exp(scores / 8).sum(0)
        values = torch.stack([layer.alpha(hidden[b, j]) + d for j, d in zip(near, delta, strict=True)])
        torch.testing.assert_close(found[b, i], x[b, i] + layer.fc2((weights * values).sum(0)), rtol=1e-9, atol=1e-9)


def test_features_are_brought_up_by_inverse_distances(clouds: Tensor) -> None:
    torch.manual_seed(2)
    layer = TransitionUp(10, 6).eval().double()
    many, few = clouds[..., :3].double(), clouds[:, :9, :3].double() + 0.01
    x, skipped = torch.randn(6, 9, 10, dtype=torch.float64), clouds.double()
    found = layer(few, x, many, skipped)
    for b, i in ((0, 0), (4, 33)):
        distance = torch.cdist(many[b, i : i + 1], few[b])[0]
        near = distance.argsort()[:3]
        weights = 1 / (distance[near] ** 2 + 1e-6)
        brought = sum(w * layer.fc1(x[b, j]) for w, j in zip(weights / weights.sum(), near, strict=True))
        torch.testing.assert_close(found[b, i], layer.fc2(skipped[b, i]) + brought, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_segmentation_scores_every_point_and_is_the_same_network_in_its_file(clouds: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PointTransformerSegmentation(64, 7, stages=2, neighbours=8).eval()
    assert model(clouds).shape == (6, 64, 7)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(63, generator=torch.Generator().manual_seed(0))])
    torch.testing.assert_close(model(clouds[:, order]), model(clouds)[:, order], rtol=1e-3, atol=1e-3)
    graph = qpass.quantize_graph(model, [clouds[:4]], "w8a8", progress=False)
    report = qpass.quantization_report(graph)
    assert report.counts == {"linear": 2 + (1 + 2 + 2) * 9 + 2 * 2 + 2, "conv2d": 4}
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, clouds).passed


@pytest.mark.slow
def test_methods_that_learn_learn_its_blocks(small: nn.Module, clouds: Tensor) -> None:
    recipe = {"preset": "aiqvit-w4a4", "reconstruction": {"search_steps": 2, "steps": 2, "ranks": [2], "batch_size": 4}}
    graph = qpass.quantize_graph(small, [clouds], recipe, progress=False)
    learned = qpass.quantization_report(graph).reconstruction
    assert [block.label for block in learned] == ["transformers.0", "transformers.1"]
    assert all(block.ranks for block in learned)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
def test_the_file_is_the_same_network_at_any_batch(small: nn.Module, clouds: Tensor, tmp_path: Path, config: str) -> None:
    graph = qpass.quantize_graph(small, [clouds[:4]], config, progress=False)
    report = qpass.quantization_report(graph)
    assert report.counts == {"linear": 2 + 3 * 9 + 3, "conv2d": 4}
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, clouds).passed


@pytest.mark.nightly
def test_the_trained_network_classifies_and_keeps_it_at_8_bits(assets: Path, tmp_path: Path) -> None:
    weights = assets / "point_transformer_modelnet40" / "model.safetensors"
    model = create_model("qpass.zoo.point_transformer:PointTransformer", weights)
    data = np.load(assets / "modelnet40_air_bath_test" / "test150_1024x6.npz")
    objects, labels = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    batches = [(x, y) for x, y in zip(objects[::6].split(5), labels[::6].split(5), strict=True)]
    graph = qpass.quantize_graph(model, list(objects[1::15].split(5)), "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, objects[:2]).passed, "units that weight decay shrank to nothing are no obstacle"
    base, file = evaluate_top1(model, batches), evaluate_top1(OrtSession(path), batches)
    assert base.top1 >= 0.92
    assert base.top1 - file.top1 <= 0.04
