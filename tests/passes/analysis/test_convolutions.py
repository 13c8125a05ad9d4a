"""Which convolutions are quantized, and what of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import Declined, LayerPlan

TABLE = Path(__file__).parents[3] / "benchmarks" / "results" / "convolutions.json"


def plans(model: nn.Module, *shape: int, **fields: object) -> dict[str, LayerPlan | Declined]:
    graph: fx.GraphModule = trace(model.eval(), (torch.randn(2, *shape),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any({"preset": "w4a4", **fields}))(graph)
    return {plan.path: plan for node in graph.graph.nodes if (plan := get_plan(node)) is not None}


class Net(nn.Module):
    """Outputs that a quantizer reads directly, through a ReLU, through a SiLU, beside a sum, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.direct, self.relu, self.silu = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.shared, self.last = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.direct(self.stem(x))).relu()
        x = self.norm(self.shared(nn.functional.silu(self.silu(x)))).relu()
        return x + self.last(x)


def test_outputs_get_a_quantizer_where_none_reads_them() -> None:
    found = plans(Net(), 8, 6, 6, convolutions="all")
    outputs = {path: plan.output is not None for path, plan in found.items() if isinstance(plan, LayerPlan)}
    assert outputs == {"stem": False, "direct": False, "relu": False, "silu": True, "shared": True, "last": True}
    assert {plan.output.bits for plan in found.values() if isinstance(plan, LayerPlan) and plan.output} == {8}
    assert [plan.operands[0].spec.bits for plan in found.values()] == [8, 4, 4, 4, 4, 4]  # type: ignore[union-attr]


def test_weights_only() -> None:
    for plan in plans(Net(), 8, 6, 6, convolutions="weights").values():
        assert isinstance(plan, LayerPlan)
        assert (plan.weight.bits, plan.operands[0].spec, plan.output) == (4, None, None)  # type: ignore[union-attr]
        assert plan.reason == "the recipe quantizes only weights of such convolutions"


def test_a_rule_leaves_the_input_of_a_convolution_in_float() -> None:
    plan = plans(Net(), 8, 6, 6, rules={"stem": {"activation": None}})["stem"]
    assert isinstance(plan, LayerPlan)
    assert (plan.operands[0].spec, plan.output) == (None, None)
    assert plan.weight is not None


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (nn.Conv1d(4, 4, 3, groups=4), (4, 9), "under 4 weights per channel, which take no less space as codes with a scale"),
        (nn.ConvTranspose2d(4, 4, 3), (4, 6, 6), "transposed convolutions are not quantized"),
    ],
)
def test_what_stays_float(model: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    (plan,) = plans(nn.Sequential(model, nn.ReLU()), *shape).values()
    assert isinstance(plan, Declined)
    assert plan.reason == reason


def test_patches_and_points_of_sequences_need_no_quantized_output() -> None:
    for model, shape in ((nn.Conv2d(3, 8, 4, 4), (3, 16, 16)), (nn.Conv1d(3, 8, 1), (3, 12))):
        (plan,) = plans(nn.Sequential(model, nn.GELU()), *shape).values()
        assert isinstance(plan, LayerPlan)
        assert plan.operands[0].spec is not None
        assert plan.output is None


class Block(nn.Module):
    """A grouped convolution behind a dense one."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.dense = nn.Conv2d(channels, channels, 3, padding=1)
        self.grouped = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.grouped(self.dense(x).relu())


@pytest.mark.parametrize(
    ("channels", "groups", "reasons"),
    [
        (16, 16, ("", "")),
        (32, 2, ("", "")),
        (32, 4, ("", "groups of 8 channels, under 16: float is faster")),
        (4, 4, ("under 8 input and 64 output channels: float is faster",
                "depthwise and not behind a convolution on integers: float is faster")),
    ],
    ids=["depthwise", "large groups", "small groups", "behind a float product"],
)  # fmt: skip
def test_the_fastest_form_depends_on_work_groups_and_the_layer_before(
    channels: int, groups: int, reasons: tuple[str, str]
) -> None:
    found = plans(Block(channels, groups), channels, 6, 6)
    assert tuple(plan.reason for plan in found.values()) == reasons
    assert [plan.operands[0].spec is None for plan in found.values()] == [bool(reason) for reason in reasons]  # type: ignore[union-attr]


class Down(nn.Module):
    """A shortcut of little work beside a convolution that reads the same tensor."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.main, self.shortcut = nn.Conv2d(16, 32, side, 2, side // 2), nn.Conv2d(16, 32, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


def test_codes_that_another_convolution_reads_are_read_too() -> None:
    assert [plan.reason == "" for plan in plans(Down(3), 16, 8, 8).values()] == [True, True]  # type: ignore[union-attr]
    assert [plan.reason == "" for plan in plans(Down(1), 16, 8, 8).values()] == [False, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(("channels", "outputs", "integers"), [(3, 16, False), (3, 64, True), (8, 16, True)])
def test_few_channels_of_an_image_stay_float(channels: int, outputs: int, integers: bool) -> None:
    (plan,) = plans(nn.Sequential(nn.Conv2d(channels, outputs, 7, 2, 3), nn.ReLU()), channels, 16, 16).values()
    assert isinstance(plan, LayerPlan)
    assert (plan.reason == "") == integers


def test_the_plan_takes_what_the_table_says_is_faster() -> None:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    assert len(rows) > 20
    for name, row in rows.items():
        assert row[row["planned"]] < 1.1 * min(row["weights"], row["integers"]), name
