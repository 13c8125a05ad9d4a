"""Canonicalization rules: the graph after, the numbers, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, finish, record_shapes
from qpass.graph.fx_rule import FxRule
from qpass.passes import Canonicalize
from qpass.passes.rules.decompose_attention import decompose_attention
from qpass.passes.rules.drop_no_ops import drop_no_ops
from qpass.passes.rules.fold_batch_norm import fold_batch_norm
from qpass.passes.rules.fold_channel_scale import fold_channel_scale
from qpass.passes.rules.fold_constants import fold_constants
from qpass.passes.rules.linear_from_matmul import bias_from_add, linear_from_addmm, linear_from_matmul
from qpass.passes.rules.reshape_from_view import reshape_from_view
from qpass.passes.rules.split_baddbmm import split_baddbmm
from qpass.passes.rules.split_fused_qkv import split_fused_qkv


class Call(nn.Module):
    """A module around a function, with constants of its own."""

    def __init__(self, function: Callable[..., Tensor], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def apply(rule: FxRule, model: nn.Module, *inputs: Tensor) -> tuple[fx.GraphModule, int]:
    """Applies a rule once and checks that the model's own numbers are kept, twice in a row and on other inputs."""
    others = tuple(x.roll(1, 0) for x in inputs)
    expected, expected_of_others = model.eval()(*inputs), model(*others)
    graph = trace(model, inputs)
    count = rule.apply(graph).count
    finish(graph)
    for _ in range(2):
        torch.testing.assert_close(graph(*inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph(*others), expected_of_others, rtol=1e-5, atol=1e-5)
    record_shapes(graph)
    return graph, count


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def count(graph: fx.GraphModule, *targets: object) -> int:
    return len(list(calls(graph, *targets)))


class TestDropNoOps:
    def test_dropout_whole_slice_and_zero_pad_go(self) -> None:
        function = lambda m, x: F.pad(F.dropout(x, 0.5, m.training)[:], (0, 0)).detach() + 1  # noqa: E731
        graph, dropped = apply(drop_no_ops, Call(function), seeded(2, 4))
        assert dropped >= 3
        assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.add.Tensor]

    def test_a_real_slice_and_a_real_pad_stay(self) -> None:
        graph, _ = apply(drop_no_ops, Call(lambda m, x: F.pad(x[:, 1:], (0, 1))), seeded(2, 4))
        assert count(graph, aten.slice.Tensor, aten.pad.default) == 2


class TestFoldChannelScale:
    @pytest.mark.parametrize("shape", [(6,), (1, 1, 6)])
    def test_a_factor_for_each_channel_goes_into_the_linear(self, shape: tuple[int, ...]) -> None:
        linear = lambda m, x: F.linear(x, m.w, m.b) * m.scale  # noqa: E731
        graph, folded = apply(
            fold_channel_scale, Call(linear, w=seeded(6, 4), b=seeded(6), scale=seeded(*shape)), seeded(2, 3, 4)
        )
        assert folded == 1
        assert count(graph, aten.mul.Tensor) == 0

    def test_one_channel_times_a_number(self) -> None:
        model = Call(lambda m, x: F.linear(x, m.w, m.b) * m.scale, w=seeded(1, 4), b=seeded(1), scale=torch.tensor(2.0))
        graph, folded = apply(fold_channel_scale, model, seeded(2, 3, 4))
        assert folded == 1
        assert count(graph, aten.mul.Tensor) == 0

    def test_the_factor_may_come_first_and_the_bias_be_missing(self) -> None:
        model = Call(lambda m, x: m.scale * F.linear(x, m.w), w=seeded(6, 4), scale=seeded(6))
        graph, folded = apply(fold_channel_scale, model, seeded(2, 4))
        assert folded == 1
        assert next(calls(graph, aten.linear.default)).args[2:] == (None,)

    @pytest.mark.parametrize(
        "function",
        [
            lambda m, x: F.linear(x, m.w) * m.token,
            lambda m, x: (y := F.linear(x, m.w)) * m.scale + y,
            lambda m, x: F.linear(x, m.w) * x.mean(),
            lambda m, x: F.linear(x, m.w) * m.tall,
        ],
        ids=["a factor for each token", "an output read twice", "a factor that is no constant", "a factor that adds dims"],
    )
    def test_other_factors_stay(self, function: Callable[..., Tensor]) -> None:
        constants = {"w": seeded(6, 4), "scale": seeded(6), "token": seeded(6, 1), "tall": seeded(2, 1, 1, 6)}
        graph, folded = apply(fold_channel_scale, Call(function, **constants), seeded(2, 6, 4))
        assert folded == 0
        assert count(graph, aten.mul.Tensor) == 1


class TestFoldConstants:
    def test_numbers_that_are_read_from_constants_are_written_out(self) -> None:
        def function(m: nn.Module, x: Tensor) -> Tensor:
            sizes = torch.zeros(2, dtype=torch.long)
            sizes[0], sizes[1] = 3, 4
            return x * (sizes.sum().item() + 1)

        graph, _ = apply(fold_constants, Call(function), seeded(2, 3))
        graph.graph.eliminate_dead_code()
        assert [node.args[1] for node in graph.graph.nodes if node.op == "call_function"] == [8]

    def test_what_depends_on_constants_alone_becomes_one(self) -> None:
        model = Call(lambda m, x: F.linear(x, m.w, torch.cat([m.a, m.a * 2])), w=seeded(6, 4), a=seeded(3))
        graph, folded = apply(fold_constants, model, seeded(2, 4))
        assert folded == 1
        assert count(graph, aten.cat.default, aten.mul.Tensor) == 0

    def test_randomness_and_inputs_stay(self) -> None:
        graph = trace(Call(lambda m, x: x * m.a + torch.rand_like(m.a), a=seeded(4)).eval(), (seeded(2, 4),))
        assert fold_constants.apply(graph).count == 0

    def test_what_is_filled_in_place_is_folded_as_it_is_at_last(self) -> None:
        def sizes(m: nn.Module, x: Tensor) -> Tensor:
            table = torch.empty(2, 3)
            for row in range(2):
                table[row, 0] = row + 5
                table[row, 1:] = m.a[1:]
            table[..., 0] /= 4
            return x * table

        graph, _ = apply(fold_constants, Call(sizes, a=seeded(3)), seeded(2, 3))
        assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.mul.Tensor]
        graph(seeded(2, 3))
        torch.testing.assert_close(graph(torch.ones(2, 3))[:, 0], torch.tensor([5 / 4, 6 / 4]))

    @pytest.mark.parametrize(
        "function",
        [
            lambda m, x: ((t := m.a.clone())[:1].mul_(x.sum()), x * t[:1])[1],
            lambda m, x: ((t := m.a.clone()), (y := x * t), t[:1].mul_(2), y * t)[3],
        ],
        ids=["written from outside", "read before its last change"],
    )
    def test_constants_that_change_meanwhile_are_computed(self, function: Callable[..., Tensor]) -> None:
        graph, _ = apply(fold_constants, Call(function, a=seeded(3)), seeded(2, 3))
        once, twice = graph(seeded(2, 3)), graph(seeded(2, 3))
        torch.testing.assert_close(once, twice, rtol=0, atol=0)


class TestReshapeFromView:
    def test_attention_that_is_viewed_behind_its_transpose_decomposes(self) -> None:
        """torch's fused attention gives strides that such a view needs; matmuls do not."""

        def attention(m: nn.Module, x: Tensor) -> Tensor:
            heads = x.view(-1, 5, 3, 4).transpose(1, 2)
            y = F.scaled_dot_product_attention(heads, heads, heads)
            return y.permute(0, 2, 1, 3).view(-1, 5, 12)

        graph, changed = apply(reshape_from_view, Call(attention), seeded(2, 5, 12))
        assert changed == 2
        assert count(graph, aten.view.default) == 0
        graph = trace(Call(attention).eval(), (seeded(2, 5, 12),))
        expected = graph(seeded(2, 5, 12))
        Canonicalize()(graph)
        torch.testing.assert_close(graph(seeded(2, 5, 12)), expected)


class TestSplitBaddbmm:
    def test_a_mask_is_added_to_the_product(self) -> None:
        function = lambda m, x: torch.baddbmm(m.mask, x, x.transpose(1, 2)).softmax(-1) @ x  # noqa: E731
        graph, changed = apply(split_baddbmm, Call(function, mask=seeded(1, 5, 5)), seeded(2, 5, 4))
        assert changed == 1
        assert count(graph, aten.baddbmm.default) == 0
        assert count(graph, aten.bmm.default) == 1

    def test_with_a_factor_it_stays(self) -> None:
        function = lambda m, x: torch.baddbmm(m.mask, x, x.transpose(1, 2), alpha=0.5)  # noqa: E731
        graph, changed = apply(split_baddbmm, Call(function, mask=seeded(1, 5, 5)), seeded(2, 5, 4))
        assert changed == 0
        assert count(graph, aten.baddbmm.default) == 1


class TestDecomposeAttention:
    @pytest.mark.parametrize("mask", ["none", "float", "bool", "causal", "scale"])
    def test_numbers_and_form(self, mask: str) -> None:
        q = seeded(2, 3, 5, 4)
        options: dict[str, Callable[[nn.Module], dict[str, object]]] = {
            "none": lambda m: {},
            "float": lambda m: {"attn_mask": m.bias},
            "bool": lambda m: {"attn_mask": m.bias > -0.5},
            "causal": lambda m: {"is_causal": True},
            "scale": lambda m: {"scale": 0.3},
        }
        model = Call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, **options[mask](m)), bias=seeded(5, 5))
        graph, done = apply(decompose_attention, model, q, q + 1, q * 2)
        assert done == 1
        assert count(graph, aten.matmul.default) == 2
        assert count(graph, aten.softmax.int) == 1

    @pytest.mark.parametrize("heads", [1, 2, 4])
    def test_heads_that_share_a_key_and_a_value(self, heads: int) -> None:
        q, kv = seeded(2, 4, 5, 4), seeded(2, heads, 5, 4)
        model = Call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
        graph, done = apply(decompose_attention, model, q, kv, kv * 2)
        assert done == 1
        assert count(graph, aten.matmul.default) == 2
        assert count(graph, aten.repeat_interleave.self_int) == (0 if heads == 4 else 2)


class TestLinearFromMatmul:
    def test_matmul_then_add(self) -> None:
        model = Call(lambda m, x: x @ m.w + m.b, w=seeded(4, 6), b=seeded(6))
        graph, done = apply(linear_from_matmul, model, seeded(2, 3, 4))
        assert done == 1
        assert bias_from_add.apply(graph).count == 1
        finish(graph)
        assert count(graph, aten.linear.default) == 1
        assert count(graph, aten.matmul.default, aten.add.Tensor) == 0
        torch.testing.assert_close(graph(seeded(2, 3, 4)), model(seeded(2, 3, 4)), rtol=1e-5, atol=1e-5)

    def test_a_bias_that_is_computed_after_the_product(self) -> None:
        model = Call(lambda m, x: x @ m.w + m.b * 2, w=seeded(4, 6), b=seeded(6))
        graph = trace(model.eval(), (seeded(2, 3, 4),))
        Canonicalize()(graph)
        assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.linear.default]
        torch.testing.assert_close(graph(seeded(2, 3, 4)), model(seeded(2, 3, 4)), rtol=1e-5, atol=1e-5)

    def test_addmm(self) -> None:
        model = Call(lambda m, x: torch.addmm(m.b, x, m.w), w=seeded(4, 6), b=seeded(6))
        graph, done = apply(linear_from_addmm, model, seeded(3, 4))
        assert done == 1
        assert count(graph, aten.linear.default) == 1

    def test_a_bias_of_another_shape_and_two_activations_stay(self) -> None:
        graph, done = apply(
            linear_from_matmul, Call(lambda m, x: x @ m.w + m.b, w=seeded(4, 6), b=seeded(3, 6)), seeded(2, 3, 4)
        )
        assert done == 1
        (near,) = bias_from_add.apply(graph).declined
        assert near.reason == "what is added to its product has shape (3, 6), and a bias (6,)"
        assert count(graph, aten.add.Tensor) == 1
        _, done = apply(linear_from_matmul, Call(lambda m, x: x @ x.mT), seeded(2, 3, 4))
        assert done == 0


class TestFoldBatchNorm:
    def norm(self, channels: int, kind: type[nn.Module]) -> nn.Module:
        norm = kind(channels)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        return norm

    @pytest.mark.parametrize("bias", [True, False])
    def test_convolution(self, bias: bool) -> None:
        model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), self.norm(5, nn.BatchNorm2d))
        graph, done = apply(fold_batch_norm, model, seeded(2, 3, 6, 6))
        assert done == 1
        assert count(graph, aten.batch_norm.default) == 0

    def test_linear_over_merged_tokens(self) -> None:
        linear, norm = nn.Linear(4, 6), self.norm(6, nn.BatchNorm1d)
        model = Call(lambda m, x: norm(linear(x).flatten(0, 1)).unflatten(0, (-1, 3)))
        model.linear, model.norm = linear, norm
        graph, done = apply(fold_batch_norm, model, seeded(2, 3, 4))
        assert done == 1
        assert count(graph, aten.batch_norm.default) == 0

    @pytest.mark.parametrize(("move", "folds"), [("reshape", 0), ("flatten", 1), ("transpose", 0)])
    def test_equal_sizes_are_told_apart(self, move: str, folds: int) -> None:
        """Channels, rows and columns are four each: what a dim is shows in where its values come from."""
        moves = {
            "reshape": lambda y: y.permute(0, 2, 3, 1).reshape(-1, 4, 4),
            "flatten": lambda y: y.flatten(2),
            "transpose": lambda y: y.flatten(2).transpose(1, 2).reshape(-1, 4, 4),
        }
        model = Call(lambda m, x: m.norm(moves[move](m.conv(x))))
        model.conv, model.norm = nn.Conv2d(3, 4, 1), self.norm(4, nn.BatchNorm1d)
        _, done = apply(fold_batch_norm, model, seeded(2, 3, 4, 4))
        assert done == folds

    def test_a_layer_with_another_reader_stays(self) -> None:
        linear, norm = nn.Linear(4, 6), self.norm(6, nn.BatchNorm1d)
        model = Call(lambda m, x: (lambda y: norm(y) + y)(linear(x)))
        model.linear, model.norm = linear, norm
        _, done = apply(fold_batch_norm, model, seeded(3, 4))
        assert done == 0


class TestSplitFusedQkv:
    @pytest.mark.parametrize("parts", [2, 3])
    def test_heads_are_moved_after_the_split(self, parts: int) -> None:
        def function(m: nn.Module, x: Tensor) -> Tensor:
            found = F.linear(x, m.w).reshape(x.shape[0], 5, parts, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            return sum(part * (i + 1) for i, part in enumerate(found))

        graph, done = apply(split_fused_qkv, Call(function, w=seeded(parts * 8, 6)), seeded(2, 5, 6))
        assert done == 1
        assert count(graph, aten.unbind.int) == 0
        assert count(graph, aten.chunk.default) == 1
        assert count(graph, aten.permute.default) == parts

    def test_parts_that_do_not_lie_side_by_side_stay(self) -> None:
        def function(m: nn.Module, x: Tensor) -> Tensor:
            a, b = x.reshape(x.shape[0], 5, 4, 2).permute(3, 0, 1, 2).unbind(0)
            return a - b

        _, done = apply(split_fused_qkv, Call(function), seeded(2, 5, 8))
        assert done == 0


def test_all_rules_together_come_to_rest_and_keep_the_numbers(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    expected = vit(images)
    assert Canonicalize()(graph) is True
    torch.testing.assert_close(graph(images), expected, rtol=1e-5, atol=1e-5)
    assert count(graph, aten.dropout.default, aten.scaled_dot_product_attention.default, aten.unbind.int) == 0
