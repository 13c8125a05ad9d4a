"""A frozen graph holds codes and tables, and computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.nn import QuantizedLayer
from qpass.passes import FoldLayerNorm, Freeze
from qpass.quantizers import LookUp, ShiftLog2
from tests.models import small_vit


def unfrozen(model: nn.Module, x: Tensor, recipe: dict[str, object], *, fold: bool = True) -> tuple[fx.GraphModule, Freeze]:
    graph = trace(model, (x,))
    *steps, freeze = pipeline(QuantConfig.from_any(recipe), [ModelInputs((x,), {})])
    for step in steps:
        if fold or not isinstance(step, FoldLayerNorm):
            step(graph)
    assert isinstance(freeze, Freeze)
    return graph, freeze


@pytest.mark.parametrize("tabulated", [False, True], ids=["formulas", "tables"])
def test_codes_and_tables_take_the_place_of_weights_and_formulas(tabulated: bool, images: Tensor) -> None:
    recipe = {"preset": "repq-vit-w4a4", "post_softmax": {"quantizer": "shift-log2", "bits": 4, "tabulated": tabulated}}
    graph, freeze = unfrozen(small_vit(depth=1), images, recipe)
    formulas = {name: module for name, module in graph.named_children() if isinstance(module, ShiftLog2)}
    assert formulas
    tables = {name: LookUp.of(module) for name, module in formulas.items()}
    expected = copy.deepcopy(graph)
    for name in formulas if tabulated else ():
        setattr(expected, name, tables[name])
    assert freeze(graph) is True
    assert all(isinstance(graph.get_submodule(name), LookUp) == tabulated for name in formulas)
    layers = [module for module in graph.modules() if isinstance(module, QuantizedLayer)]
    assert layers
    assert all(layer.frozen and layer.weight is None for layer in layers)
    assert torch.equal(graph(images), expected(images))


def test_scales_for_each_channel_have_to_be_folded_first(images: Tensor) -> None:
    graph, freeze = unfrozen(small_vit(depth=1), images, {"preset": "repq-vit-w4a4"}, fold=False)
    with pytest.raises(PassError, match="its output has a scale for each channel; run FoldLayerNorm first"):
        freeze(graph)
    assert torch.isfinite(graph(images)).all()
