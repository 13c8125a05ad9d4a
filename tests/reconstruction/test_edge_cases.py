"""Recipes that learn on networks, rules, samples and callers that leave little to learn: they work, or say why not at once."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import qpass
from qpass.errors import UnsupportedError
from qpass.graph.facts import facts_of
from qpass.passes import Calibrate
from qpass.quantizers import Quantizer
from qpass.reconstruction.record import BlockRecord
from qpass.reconstruction.segments import AFTER_BLOCKS, BEFORE_BLOCKS
from tests.models import Branching, small_vit

SHORT = {"steps": 2, "batch_size": 8, "precision": "float32"}
SEARCH = {"ranks": [2, 6], "search_steps": 2, **SHORT}
RECIPES: dict[str, dict[str, Any]] = {
    "aiqvit": {"preset": "aiqvit-w4a4", "reconstruction": SEARCH},
    "aiqvit, paper order": {"preset": "aiqvit-w3a4", "reconstruction": {**SEARCH, "order": "paper"}},
    "aiqvit-lsq": {"preset": "aiqvit-lsq-w4a8", "reconstruction": SEARCH},
    "ias-vit": {"preset": "ias-vit-w4a4", "reconstruction": SHORT},
    "dopq-vit": {"preset": "dopq-vit-w3a3", "reconstruction": SHORT},
    "polish": {"preset": "mixed-w4a5", "polish": "quick", "reconstruction": SHORT},
}
#: One of each order of learning.
SOME = ("aiqvit", "ias-vit", "polish")
FEW = settings(max_examples=6, deadline=None, derandomize=True)
any_recipe = st.sampled_from(list(RECIPES))


class Block(nn.Module):
    """Attention and an MLP, either of which may be left out; ``reshape`` fixes the batch that it was traced with."""

    def __init__(self, *, attends: bool = True, linear: bool = True, fixed: bool = False) -> None:
        super().__init__()
        self.norm, self.attends, self.fixed = nn.LayerNorm(16), attends, fixed
        self.mlp = nn.Linear(16, 16) if linear else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.attends:
            q = y.reshape(len(y), 8, 2, 8).transpose(1, 2) if self.fixed else y.unflatten(-1, (2, 8)).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return x + self.mlp(x)


class Stack(nn.Module):
    """Blocks between two Linears, called in the given order."""

    def __init__(self, *blocks: nn.Module, order: tuple[int, ...] | None = None, fixed: bool = False) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(6, 16), nn.ModuleList(blocks), nn.Linear(16, 3)
        self.order, self.fixed = order or tuple(range(len(blocks))), fixed

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.fixed:
            x = x + torch.ones(1, 8, 16).expand(len(x), -1, -1)
        for index in self.order:
            x = self.blocks[index](x)
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(0))


def learn(model: nn.Module, batches: list[Tensor], recipe: str, **changes: Any) -> fx.GraphModule:
    config = {**RECIPES[recipe], **changes}
    return qpass.quantize_graph(model.eval(), batches, config, progress=False)


def records(graph: fx.GraphModule) -> list[BlockRecord]:
    return list(facts_of(graph).report.reconstruction)


def blocks_of(graph: fx.GraphModule) -> list[BlockRecord]:
    """Returns the records of blocks, without those of the network's ends."""
    return [row for row in records(graph) if row.path not in (BEFORE_BLOCKS, AFTER_BLOCKS)]


def check_learned(graph: fx.GraphModule, *paths: str) -> None:
    """Checks that each stage went through these blocks, and that what it measured are numbers."""
    rows = records(graph)
    for stage in {row.stage for row in rows}:
        assert [row.path for row in blocks_of(graph) if row.stage == stage] == list(paths)
    assert all(math.isfinite(row.error_before) and math.isfinite(row.error_after) for row in rows)


@pytest.mark.slow
@FEW
@given(
    recipe=any_recipe,
    left_out=st.sampled_from([(0,), (1,), (0, 1)]),
    inner=st.sampled_from(["*", ".attn*", ".mlp*", ".attn.qkv"]),
)
def test_rules_may_leave_any_block_in_float(
    vit: nn.Module, images: Tensor, recipe: str, left_out: tuple[int], inner: str
) -> None:
    rules = {f"blocks.{index}{inner}": None for index in left_out}
    graph = learn(vit, [images], recipe, rules=rules)
    check_learned(graph, "blocks.0", "blocks.1")
    for row in blocks_of(graph):
        nothing_to_learn = inner == "*" and int(row.path[-1]) in left_out
        assert row.steps == (0 if nothing_to_learn else 2)
        if nothing_to_learn:
            assert row.error_after == row.error_before
    known = vit.state_dict()
    floats = [t for name, t in graph.state_dict().items() if t.is_floating_point() and t.dim() == 2 and "codes" not in name]
    expected = [known[name] for name in known if name.endswith("mlp.fc2.weight") and int(name[7]) in left_out]
    if inner in ("*", ".mlp*") and recipe != "polish":  # whose rotations turn weights that stay float too
        assert all(any(tensor.shape == e.shape and torch.equal(tensor, e) for tensor in floats) for e in expected)


@pytest.mark.slow(after=2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_that_rules_leave_in_float_computes_what_the_model_does(vit: nn.Module, images: Tensor, recipe: str) -> None:
    graph = learn(vit, [images], recipe, rules={"*": None})
    assert not any(isinstance(module, Quantizer) for module in graph.modules())
    torch.testing.assert_close(graph(images), vit(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@FEW
@given(recipe=any_recipe, samples=st.sampled_from([1, 1, 2, 3, 8]), rows=st.sampled_from([1, 2, 8]))
def test_few_samples_in_batches_of_any_size(vit: nn.Module, images: Tensor, recipe: str, samples: int, rows: int) -> None:
    graph = learn(vit, list(images[:samples].split(rows)), recipe)
    check_learned(graph, "blocks.0", "blocks.1")
    assert graph(images).shape == vit(images).shape


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_both_parts_of_the_search_have_samples(vit: nn.Module, images: Tensor, share: float, samples: int) -> None:
    changes = {"reconstruction": {**SEARCH, "validation_share": share}}
    check_learned(learn(vit, [images[:samples]], "aiqvit", **changes), "blocks.0", "blocks.1")


@pytest.mark.slow
@FEW
@given(recipe=any_recipe, rows=st.sampled_from([2, 4, 8]))
def test_a_fixed_batch_is_always_whole(tokens: Tensor, recipe: str, rows: int) -> None:
    """The curriculum draws from half of the samples at first, which are fewer than a batch where there is one batch."""
    torch.manual_seed(0)
    model = Stack(Block(fixed=True), Block(fixed=True), fixed=True)
    with pytest.warns(UserWarning, match=f"the batch is fixed at {rows}"):
        graph = learn(model, [tokens[:rows]], recipe)
    check_learned(graph, "blocks.0", "blocks.1")


@pytest.mark.slow(after=3)
@pytest.mark.parametrize("recipe", SOME)
@pytest.mark.parametrize("order", [(0, 0, 0), (0, 1, 0)], ids=["one block", "two blocks"])
def test_blocks_that_are_called_again(tokens: Tensor, recipe: str, order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Stack(*(Block() for _ in set(order)), order=order)
    before = copy.deepcopy(model.state_dict())
    graph = learn(model, [tokens], recipe)
    assert {row.path for row in blocks_of(graph)} == {f"blocks.{index}" for index in order}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("recipe", ["aiqvit", "polish"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: Stack(Block(linear=False), Block(linear=False)),
        lambda: Stack(Block(attends=False), Block(attends=False)),
        lambda: Stack(),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4)),
    ],
    ids=["no Linear", "no attention", "no blocks", "no transformer"],
)
def test_networks_without_blocks_are_refused_before_any_work(
    build: Any, recipe: str, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calibrate, "run", lambda *_: pytest.fail("calibrated"))
    with pytest.raises(UnsupportedError, match=r"no transformer block to learn.*choose a recipe that does not learn"):
        learn(build(), [tokens], recipe)


def test_blocks_beside_others_that_cannot_be_learned(tokens: Tensor) -> None:
    model = Stack(Block(linear=False), Block(), Block(attends=False))
    check_learned(learn(model, [tokens], "aiqvit"), "blocks.1")


class TwoParts(nn.Module):
    """A part with blocks, and one with attention outside of numbered modules."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.neck, self.backbone = Block(), backbone
        self.widen = nn.Linear(6, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.widen(x)).mean() + self.backbone(x)


def test_parts_without_blocks_are_quantized_and_not_learned(tokens: Tensor) -> None:
    model = TwoParts(Stack(Block())).eval()
    found = qpass.quantize_graph(model, [tokens], RECIPES["aiqvit"], submodules=("neck", "backbone"), progress=False)
    check_learned(found.backbone, "blocks.0")
    assert not records(found.neck)


def test_parts_of_which_none_has_blocks_are_refused_before_any_work(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Calibrate, "run", lambda *_: pytest.fail("calibrated"))
    for model, x, names in (
        (TwoParts(nn.Linear(6, 3)), tokens, ("neck", "backbone")),
        (Branching(), tokens[..., [0] * 8], ("backbone",)),
    ):
        with pytest.raises(UnsupportedError, match="no transformer block to learn"):
            qpass.quantize_graph(model.eval(), [x], RECIPES["aiqvit"], submodules=names, progress=False)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),  # acts when it is made
}


@functools.cache
def output_by_default(recipe: str, images: Tensor) -> Tensor:
    """Returns what the small ViT gives after this recipe, called in torch's default modes."""
    return qpass.quantize_graph(small_vit(), [images], RECIPES.get(recipe, recipe), progress=False)(images)


def current_modes() -> tuple[bool, bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("mode", "recipe"),
    [("no_grad", "aiqvit"), ("inference_mode", "ias-vit"), ("autocast", "w4a4"), ("set_grad_enabled", "polish")],
)
def test_the_modes_of_the_caller_change_nothing(images: Tensor, mode: str, recipe: str) -> None:
    config, expected = RECIPES.get(recipe, recipe), output_by_default(recipe, images)
    with MODES[mode]():
        before = current_modes()
        graph = qpass.quantize_graph(small_vit(), [images.clone()], config, progress=False)
        assert current_modes() == before
    assert not any(tensor.is_inference() for tensor in graph.state_dict().values())
    assert torch.equal(graph(images), expected)


@pytest.mark.slow
@FEW
@given(recipe=st.sampled_from([*RECIPES, "w8a8"]), model_made_inside=st.booleans(), images_made_inside=st.booleans())
def test_models_and_images_that_inference_mode_made(
    images: Tensor, recipe: str, model_made_inside: bool, images_made_inside: bool
) -> None:
    with torch.inference_mode(model_made_inside):
        model = small_vit()
    with torch.inference_mode(images_made_inside):
        x = images.clone()
    assert next(model.parameters()).is_inference() == model_made_inside
    graph = qpass.quantize_graph(model, [x], RECIPES.get(recipe, recipe), progress=False)
    assert not any(tensor.is_inference() for tensor in graph.state_dict().values())
    assert torch.equal(graph(images), output_by_default(recipe, images))


def test_modes_come_back_after_an_error(images: Tensor) -> None:
    for mode in MODES.values():
        with mode():
            before = current_modes()
            with pytest.raises(UnsupportedError):
                learn(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), [images], "aiqvit")
            assert current_modes() == before


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("recipe", SOME)
def test_neither_frozen_weights_nor_inputs_with_derivatives_change_the_result(
    vit: nn.Module, images: Tensor, recipe: str
) -> None:
    expected = output_by_default(recipe, images)
    frozen = copy.deepcopy(vit).requires_grad_(False)
    assert torch.equal(learn(frozen, [images], recipe)(images), expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    derived = images.clone().requires_grad_() * 1
    assert torch.equal(learn(vit, [derived], recipe)(images), expected)
    assert all(parameter.grad is None for parameter in vit.parameters())
