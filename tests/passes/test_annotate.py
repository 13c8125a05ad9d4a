from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import Declined, LayerPlan
from qpass.quantizers import Quantizer
from tests.models import MaskedAttention


def plans(model: nn.Module, x: Tensor, config: QuantConfig | str = "w4a4") -> list[LayerPlan | Declined]:
    graph: fx.GraphModule = trace(model.eval(), (x,))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any(config))(graph)
    return [plan for node in graph.graph.nodes if (plan := get_plan(node)) is not None]


def test_every_layer_of_a_vit_is_found(vit: nn.Module, images: Tensor) -> None:
    found = plans(vit, images)
    assert not [plan for plan in found if isinstance(plan, Declined)]
    kinds = [plan.kind for plan in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {"conv2d": 1, "linear": 9, "matmul": 4}
    by_path = {(plan.path, plan.kind): plan for plan in found}
    assert by_path["patch_embed.proj", "conv2d"].operands[0].spec.bits == 8
    assert by_path["head", "linear"].operands[0].spec.bits == 4
    attention = [plan for plan in found if plan.kind == "matmul"]
    assert [operand.role for plan in attention[:2] for operand in plan.operands] == [
        "activation",
        "activation",
        "post_softmax",
        "activation",
    ]
    assert [operand.signed for operand in attention[0].operands] == [False, True]


@pytest.mark.parametrize("recipe", ["w8a8", "codebook-w4a4"])
def test_operands_of_fused_attention_are_symmetric_where_it_reads_them(vit: nn.Module, images: Tensor, recipe: str) -> None:
    found = plans(vit, images, QuantConfig.from_any({"preset": recipe, "fused_attention": True}))
    scores, values = (plan.operands for plan in found if plan.kind == "matmul" and plan.path.startswith("blocks.0"))
    fused = recipe == "w8a8"  # codebooks have no such form
    for operand in (*scores, values[1]):
        assert (operand.spec.symmetric, operand.where_read) == (fused, fused)
        assert operand.signed or not fused
    assert (values[0].role, values[0].signed, values[0].where_read) == ("post_softmax", False, False)
    usual = [plan for plan in plans(vit, images, recipe) if plan.kind != "matmul"]
    assert [plan for plan in found if plan.kind != "matmul"] == usual


def test_such_operands_have_no_zero_point_and_are_quantized_behind_the_transpose(vit: nn.Module, images: Tensor) -> None:
    graph = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "fused_attention": True}, progress=False)
    products = [(node, plan) for node in graph.graph.nodes if isinstance(plan := get_plan(node), LayerPlan)]
    operands = [
        node.args[operand.index]
        for node, plan in products
        if plan.kind == "matmul"
        for operand in plan.operands
        if operand.where_read
    ]
    assert len(operands) == 6, "q, k and v of two blocks"
    for operand in operands:
        quantizer = graph.get_submodule(str(operand.target))  # nothing is moved between it and the product
        assert isinstance(quantizer, Quantizer)
        assert quantizer.signed
        assert quantizer.zero_point == 0


def test_signed_codes_are_asked_of_every_operand_where_a_product_reads_it(vit: nn.Module, images: Tensor) -> None:
    found = plans(vit, images, QuantConfig.from_any({"preset": "w8a8", "signed_codes": True}))
    assert {plan.kind for plan in found} == {"conv2d", "linear", "matmul"}
    for plan in found:
        assert isinstance(plan, LayerPlan)
        assert plan.output is None
        assert all(operand.signed and operand.spec.symmetric for operand in plan.operands)
        assert all(operand.where_read for operand in plan.operands) == (plan.kind == "matmul")
        assert plan.weight is None or plan.weight.symmetric


def test_signed_codes_quantize_all_inputs_of_convolutions_and_no_output() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16))
    for signed in (False, True):
        found = plans(model, torch.randn(2, 3, 8, 8), QuantConfig.from_any({"preset": "w8a8", "signed_codes": signed}))
        kept = [(plan.operands[0].spec is not None, plan.output is not None) for plan in found if isinstance(plan, LayerPlan)]
        assert kept == [(signed, False)] * 2, "on a CPU both are faster in float"


def test_masked_attention_with_separate_projections() -> None:
    found = plans(MaskedAttention(), torch.randn(2, 5, 16))
    assert [plan.path for plan in found if plan.kind == "linear"] == ["query", "key", "value", "out"]
    assert sum(plan.kind == "matmul" for plan in found) == 2


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.overlapping, self.depthwise = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, stride=2, groups=4)
        self.pointwise = nn.Conv2d(4, 8, 1)
        self.generator = nn.Linear(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.depthwise(self.overlapping(x))).flatten(2).transpose(1, 2)
        weight = self.generator(y.mean((0, 1))).view(8, 8)
        y = nn.functional.linear(y, weight)
        return torch.einsum("bnc,bmc->bn", y, y).softmax(-1).sum(-1)


def test_what_stays_float_says_why() -> None:
    config = QuantConfig.from_any({"preset": "w4a4", "convolutions": "patches"})
    declined = {(p.kind, p.path): p.reason for p in plans(_Mixed(), torch.randn(2, 3, 8, 8), config) if isinstance(p, Declined)}
    assert declined == {
        ("conv2d", "overlapping"): "its windows overlap or are padded: not a patch embedding or 1x1 convolution",
        ("linear", ""): "its weight or bias is computed, not a constant",
        ("einsum", ""): "its einsum sums over an index of one factor alone",
        ("softmax", ""): "its output does not go straight into a matmul",
    }


@pytest.mark.parametrize(("choice", "bits"), [("weights", None), ("all", 4)])
def test_the_input_of_a_pointwise_convolution_is_quantized_on_demand(choice: str, bits: int | None) -> None:
    config = QuantConfig.from_any({"preset": "w4a4", "convolutions": "patches", "pointwise_convolutions": choice})
    (plan,) = [p for p in plans(_Mixed(), torch.randn(2, 3, 8, 8), config) if p.path == "pointwise"]
    assert plan.weight.bits == 4
    assert getattr(plan.operands[0].spec, "bits", None) == bits


def test_rules_reach_layers_and_null_is_listed(vit: nn.Module, images: Tensor) -> None:
    config = QuantConfig.from_any("w4a4").with_rules({"head": None}, {"blocks.1.*": {"weight": {"bits": 8}}})
    found = {(plan.path, plan.kind): plan for plan in plans(vit, images, config)}
    assert found["head", "linear"].reason == "a rule of the config leaves it in float"
    assert found["blocks.1.mlp.fc1", "linear"].weight.bits == 8
    assert found["blocks.0.mlp.fc1", "linear"].weight.bits == 4


def test_a_rule_that_matches_nothing_is_refused(vit: nn.Module, images: Tensor) -> None:
    config = QuantConfig.from_any("w4a4").with_rules({"blocks.0.attn.qvk": {"weight": {"bits": 8}}})
    with pytest.raises(
        ConfigError,
        match=r"rule 'blocks.0.attn.qvk': the pattern matches no .*did you mean 'blocks.0.attn.qkv'\? also near: blocks.1.attn.qkv",
    ):
        plans(vit, images, config)
    inside = QuantConfig.from_any("w4a4").excluding(["blocks.0.mlp"])
    with pytest.raises(ConfigError, match=r"rule 'blocks.0.mlp': .*; 'blocks.0.mlp\.\*' matches the layers inside"):
        plans(vit, images, inside)
