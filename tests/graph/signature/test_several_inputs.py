"""Models of several inputs, deployed whole: rows of their own, labels, masks by name, open sizes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import CalibrationError, ConfigError, UnsupportedError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.passes import Canonicalize

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
}  # fmt: skip


def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = {**TEXT, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 39}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def siglip() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    text = {**TEXT, "max_position_embeddings": 6, "projection_size": 16, "bos_token_id": 0, "eos_token_id": 39}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


def images_and_texts(images: int, texts: int, seed: int, masked: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 39, (texts, 6), generator=generator)
    ids[:, 4:] = 39
    mask = {"attention_mask": (torch.arange(6) < 5).long().repeat(texts, 1)} if masked else {}
    return {"input_ids": ids, **mask, "pixel_values": torch.randn(images, 3, 16, 16, generator=generator)}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "masked"), [(clip, True), (siglip, False)])
def test_zero_shot_models_are_deployed_whole(make: Any, masked: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().eval()
    batches = [images_and_texts(1, 3, seed, masked) for seed in range(4)]
    graph, floats = qpass.quantize_graph(model, batches, progress=False), trace(model, (), batches[0])
    Canonicalize()(floats)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    inputs = {value.name: value.type.tensor_type.shape.dim[0].dim_param for value in onnx.load(path).graph.input}
    assert inputs["input_ids"] != inputs["pixel_values"]
    assert qpass.verify_onnx(graph, path, images_and_texts(6, 9, 7, masked)).passed
    runner, loaded = qpass.onnxruntime_model(graph, path), qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    for images, texts in ((4, 1), (3, 3)):
        given = images_and_texts(images, texts, 8, masked)
        with torch.no_grad():
            expected = model(**given)
        for run in (graph, runner, loaded):
            found = run(**given)
            assert found["logits_per_image"].shape == (images, texts)
            assert (found["text_embeds"] - expected.text_embeds).norm() < 0.3 * expected.text_embeds.norm()
        with torch.no_grad():
            exact = floats(**given)  # quantization aside, every number is the model's
        for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
            torch.testing.assert_close(exact[name], expected[name], rtol=1e-4, atol=1e-5)


class Masked(nn.Module):
    """Takes its mask by ``**kwargs``, and gives a loss where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        y = self.layer(x)
        mask = kwargs.get("mask")
        y = y if mask is None else y * mask[..., None]
        logits = self.head(y.mean(1) * kwargs.get("scale", 1.0))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": logits.logsumexp(1).mean() - logits[0, labels[0]], "logits": logits}
        )


def masked(rows: int, length: int = 5, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, length, 8, generator=generator)
    return {"x": x, "mask": (torch.rand(rows, length, generator=generator) > 0.5).float(), **more}


def test_a_mask_by_keyword_is_an_input_and_labels_are_not(tmp_path: Path) -> None:
    model, labels = Masked().eval(), {"labels": torch.zeros(8, dtype=torch.long)}
    with pytest.warns(UserWarning, match=r"not given \['labels'\], which only its loss needs"):
        graph = qpass.quantize_graph(model, [masked(8, **labels)], progress=False)
    given = masked(3)
    expected, unmasked = model(**given)["logits"], model(x=given["x"])["logits"]
    found = graph(**given)
    assert list(found) == ["logits"]
    assert (found["logits"] - expected).norm() < 0.1 * (unmasked - expected).norm()
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, {**given, "labels": torch.zeros(3)}).passed


def test_constants_are_kept_and_others_refused() -> None:
    with pytest.warns(UserWarning, match=r"scale=50.0: constants of the graph"):
        graph = qpass.quantize_graph(Masked().eval(), [masked(4, scale=50.0), masked(8, scale=50.0)], progress=False)
    assert graph(**masked(2, scale=50.0))["logits"].shape == (2, 3)
    with pytest.raises(UnsupportedError, match=r"scale is 1.0; expected 50.0"):
        graph(**masked(2, scale=1.0))
    with pytest.raises(CalibrationError, match=r"batch 1: scale=50.0, but 1.0 in the first batch"):
        qpass.quantize_graph(Masked().eval(), [masked(4, scale=1.0), masked(4, scale=50.0)], progress=False)


def test_sizes_that_are_left_open_by_name(tmp_path: Path) -> None:
    shapes = {"x": {0: "rows", 1: "tokens"}, "mask": {0: "rows", 1: "tokens"}}
    model, batches = Masked().eval(), [masked(4, 5), masked(3, 9), masked(2, 5)]
    with pytest.raises(CalibrationError, match=r"batch 1: shape \(3, 9, 8\).*dynamic_shapes= leaves other dims open"):
        qpass.quantize_graph(model, batches, progress=False)
    graph = qpass.quantize_graph(model, batches, dynamic_shapes=shapes, progress=False)
    assert facts_of(graph).dims == [("rows", "tokens", 8), ("rows", "tokens")]
    given = masked(5, 7)
    assert (graph(**given)["logits"] - model(**given)["logits"]).norm() < 0.1 * model(**given)["logits"].norm()
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, given).passed
    with pytest.raises(UnsupportedError, match=r"got mask \(5, 6\); expected \(rows, tokens\), with tokens 7 as in x"):
        graph(given["x"], given["mask"][:, :6])


def test_parts_have_shapes_of_their_own() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Masked()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y = self.part(x=x, mask=mask)["logits"]
            return y if y.sum().item() < 1e9 else -y

    model, batches = Whole().eval(), [masked(4), masked(2)]
    shapes = {"part": {"x": {0: "rows", 1: "tokens"}, "mask": {0: "rows", 1: "tokens"}}}
    quantized = qpass.quantize_graph(model, batches, submodules=["part"], dynamic_shapes=shapes, progress=False)
    given = masked(3, 9)
    assert quantized(**given).shape == (3, 3)
    with pytest.raises(ConfigError, match="dynamic_shapes: unknown key 'x'"):
        qpass.quantize_graph(model, batches, submodules=["part"], dynamic_shapes=shapes["part"], progress=False)


def test_inputs_that_always_go_together_are_cut_and_learned_as_one_batch() -> None:
    """Nothing in this network ties them: each mask acts by its sum alone."""
    from tests.models import small_vit

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = small_vit()

        def forward(self, images: Tensor, weights: Tensor) -> Tensor:
            return self.vit(images) + weights.sum()

    recipe = {"preset": "aiqvit-w4a4", "reconstruction": {"search_steps": 2, "steps": 2, "ranks": [2], "batch_size": 4}}
    batch = {"images": torch.randn(8, 3, 32, 32), "weights": torch.ones(8)}
    model = Weighted().eval()
    assert qpass.quantize_graph(model, [batch], recipe, progress=False)(**batch).shape == (8, 10)
    with pytest.raises(UnsupportedError, match="its inputs have row counts of their own"):
        qpass.quantize_graph(model, [{**batch, "weights": torch.ones(3)}], recipe, progress=False)


@dataclasses.dataclass
class Pair:
    """A registered dataclass of two inputs."""

    x: Tensor
    more: dict[str, Tensor]


torch.export.register_dataclass(Pair, serialized_type_name="tests.graph.signature.test_several_inputs.Pair")


class TakesPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, pair: Pair, others: list[Tensor]) -> Tensor:
        return self.layer(pair.x) + self.layer(pair.more["y"]) * others[0]


def test_registered_dataclasses_are_dynamic(tmp_path: Path) -> None:
    def given(rows: int) -> dict[str, object]:
        x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        return {"pair": Pair(x, {"y": x + 1}), "others": [x * 2]}

    model = TakesPair().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = qpass.quantize_graph(model, [given(64)], progress=False)
    for rows in (1, 5):
        with torch.no_grad():
            expected = model(**given(rows))
        assert (graph(**given(rows)) - expected).norm() < 0.1 * expected.norm()
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, given(3)).verdict == "passed"
