"""Layers and arithmetic that other compilers trip over: each works, or an error says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpass
from qpass import QPassError
from qpass.data import ModelInputs
from tests.contracts.judge import check_files, judge, quantized, result_or_refusal, signal_to_error
from tests.contracts.unusual import Net, images, net, tokens


def softmax_in_float32(s: Net, x: Tensor) -> Tensor:
    q, k, v = _heads(s, x)
    weights = F.softmax(q @ k.transpose(-2, -1) * 8**-0.5, dim=-1, dtype=torch.float32).to(q.dtype)
    return _end(s, weights @ v)


def attention_by_einsum(s: Net, x: Tensor) -> Tensor:
    q, k, v = _heads(s, x)
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(8**-0.5).softmax(-1)
    return _end(s, torch.einsum("bhij,bhjd->bhid", weights, v))


def attention_by_einsum_without_transposes(s: Net, x: Tensor) -> Tensor:
    q, k, v = (y.unflatten(-1, (4, 8)) for y in s.qkv(s.n(s.tok(x))).chunk(3, -1))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(8**-0.5).softmax(-1)
    return s.h(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).mean(1))


def _heads(s: Net, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(y.unflatten(-1, (4, 8)).transpose(1, 2) for y in s.qkv(s.n(s.tok(x))).chunk(3, -1))


def _end(s: Net, y: Tensor) -> Tensor:
    return s.h(y.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("forward", [softmax_in_float32, attention_by_einsum, attention_by_einsum_without_transposes])
def test_attention_of_another_form_is_quantized(forward: Callable[..., Tensor], tmp_path: Path) -> None:
    graph = judge(net(forward), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)
    report = qpass.quantization_report(graph)
    assert report.counts["matmul"] == 2
    assert not report.stayed_float


def factories_without_dtype(s: Net, x: Tensor) -> Tensor:
    queries = torch.zeros(x.shape[0], 4, 32) + torch.ones(4, 32) * torch.arange(4)[:, None]
    t = torch.cat([queries, s.tok(x)], 1)
    return s.h(s.att(t)[:, :4].mean(1))


def one_wide_times_parameter(s: Net, x: Tensor) -> Tensor:
    return s.one(s.att(s.tok(x)).mean(1)) * s.two


def one_dim(s: Net, x: Tensor) -> Tensor:
    return Net.forward(s, x) + s.h(s.vector)


def constant_as_wide_as_tokens(s: Net, x: Tensor) -> Tensor:
    return s.h((s.square(s.att(s.tok(x)).transpose(1, 2)).transpose(1, 2) + s.column).mean(1))


def conv_reshape_batch_norm(s: Net, x: Tensor) -> Tensor:
    y = s.conv(s.tok(x).mean(1).view(-1, 2, 4, 4))
    return s.h(s.bn(y.reshape(y.shape[0], -1)))


def times_a_vector(s: Net, x: Tensor) -> Tensor:
    t = s.att(s.tok(x))
    return s.h(t.transpose(1, 2) @ torch.linspace(0, 1, 16)) + s.h(torch.linspace(-1, 1, 16) @ t)


def linear_in_float64(s: Net, x: Tensor) -> Tensor:
    t = s.att(s.tok(x)).double()
    y = F.linear(t, s.h.weight.double(), s.h.bias.double()).mean(1)
    return (y + (t.mT @ t).mean((1, 2))[:, None]).float()


LAYERS: dict[str, Callable[[Net], None]] = {
    "one_wide_times_parameter": lambda s: (setattr(s, "one", nn.Linear(32, 1)), setattr(s, "two", nn.Parameter(torch.tensor(2.0))))[0],
    "one_dim": lambda s: setattr(s, "vector", nn.Parameter(torch.randn(32))),
    "constant_as_wide_as_tokens": lambda s: (setattr(s, "square", nn.Linear(16, 16)), setattr(s, "column", nn.Parameter(torch.randn(16, 1))))[0],
    "conv_reshape_batch_norm": lambda s: (setattr(s, "conv", nn.Conv2d(2, 32, 4, 4)), setattr(s, "bn", _batch_norm(32)))[0],
}  # fmt: skip


def _batch_norm(width: int) -> nn.Module:
    bn = nn.BatchNorm1d(width)
    for tensor in (bn.running_mean, bn.weight, bn.bias):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(bn.running_var, 0.3, 3)  # type: ignore[arg-type]
    return bn


@pytest.mark.parametrize(
    "forward",
    [
        factories_without_dtype, one_wide_times_parameter, one_dim, constant_as_wide_as_tokens, conv_reshape_batch_norm,
        times_a_vector, linear_in_float64,
    ],
)  # fmt: skip
@pytest.mark.slow
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
def test_arithmetic_of_an_unusual_kind(forward: Callable[..., Tensor], config: str, tmp_path: Path) -> None:
    model = net(forward, init=LAYERS.get(forward.__name__))
    judge(
        model,
        [images(16), images(16, 1)],
        [images(5, 2)],
        config=config,
        decibels=20 if config == "w8a8" else 5,
        folder=tmp_path,
    )


class BatchNormOfPixels(nn.Module):
    """A convolution whose rows of pixels are as long as it has channels, and a BatchNorm over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 16, (8, 2), (8, 2)), _batch_norm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # (batch, 16 channels, 4, 16 pixels)
        return self.head(self.bn(y.reshape(-1, 16)).view(x.shape[0], -1, 16).mean(1))


def test_a_batch_norm_over_pixels_is_not_folded_into_channels(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BatchNormOfPixels().eval()
    judge(model, [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


def experts(s: Net, x: Tensor) -> Tensor:
    """Gives each token to one of three experts; how many tokens each is given depends on values."""
    t = s.tok(x)
    t = (t + s.att(t)).flatten(0, 1)
    chosen, y = s.gate(t).argmax(-1), torch.zeros_like(t)
    for index, expert in enumerate(s.experts):
        y[chosen == index] = expert(t[chosen == index])
    return s.h(y.unflatten(0, (-1, 16)).mean(1))


def _experts(s: Net) -> None:
    s.gate, s.experts = nn.Linear(32, 3), nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
    nn.init.zeros_(s.gate.bias)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["w8a8", "w4a4", "mixed-w4a5"])
def test_experts_of_rows_that_are_chosen_by_value(config: str, tmp_path: Path) -> None:
    """Quantized and in float, the experts are given other rows, and of another number."""
    model, x = net(experts, init=_experts), images(5, 2)
    graph = quantized(model, [images(16), images(16, 1)], config)
    least = 15 if config == "w8a8" else 3  # tokens near an edge change their expert
    assert signal_to_error([model(x)], [graph(x)]) > least
    if config == "w8a8":
        check_files(graph, [ModelInputs((x,), {})], tmp_path)


def test_an_expert_that_no_row_is_given_to_is_named() -> None:
    model = net(experts, init=lambda s: (_experts(s), nn.init.constant_(s.gate.bias[2:], -99))[0])
    with pytest.raises(QPassError, match=r"no value was recorded.*leave the layer in float by a rule"):
        quantized(model, [images(16)])


class Padded(Net):
    """A patch embedding with ``padding="valid"``."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Conv2d(3, 32, 8, 8, padding="valid")


class Cloud(nn.Module):
    """Points (batch, 3, n) through convolutions of kernel 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).amax(-1))


class Tubelets(Net):
    """Videos (batch, 3, frames, height, width) cut into tubelets."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Conv3d(3, 32, (2, 8, 8), (2, 8, 8))


PLANNED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "padding=valid": (Padded, (3, 32, 32), 1),
    "Conv1d of kernel 1": (Cloud, (3, 20), 2),
    "Conv3d tubelets": (Tubelets, (3, 4, 16, 16), 1),
}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("kind", PLANNED)
def test_convolutions_that_are_products_are_quantized(kind: str, tmp_path: Path) -> None:
    make, shape, count = PLANNED[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
    draw = lambda rows, seed: torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    graph = judge(model, [draw(16, 0), draw(16, 1)], [draw(5, 2)], folder=tmp_path)
    report = qpass.quantization_report(graph)
    assert not report.stayed_float
    layers = [name for kind, n in report.counts.items() if kind.startswith("conv") for name in [kind] * n]
    assert len(layers) == count


def test_keys_that_are_words_of_python(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.h(s.branches["class"](s.att(s.tok(x))).mean(1) + s.branches["global"](s.tok(x).mean(1)))

    model = net(
        forward, init=lambda s: setattr(s, "branches", nn.ModuleDict({"global": nn.Linear(32, 32), "class": nn.Linear(32, 32)}))
    )
    judge(model, [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


FEW = {"steps": 2, "batch_size": 4}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_learning_inside_a_mode_without_gradients(mode: Any) -> None:
    with mode():
        graph = quantized(tokens("cat"), [images(8), images(8, 1)], {"preset": "ias-vit-w4a4", "reconstruction": FEW})
    assert graph(images(3)).isfinite().all()


def test_learning_from_one_sample() -> None:
    graph = quantized(tokens("cat"), [images(1)], {"preset": "ias-vit-w4a4", "reconstruction": FEW})
    assert graph(images(3)).isfinite().all()


def test_learning_where_the_first_block_is_float() -> None:
    recipe = {"preset": "ias-vit-w4a4", "reconstruction": FEW, "rules": {"blocks.0*": None}}
    assert quantized(tokens("cat"), [images(8), images(8, 1)], recipe)(images(3)).isfinite().all()


def test_a_graph_inside_another_module_is_exported_as_a_part_or_refused(tmp_path: Path) -> None:
    around = nn.Sequential(quantized(net(), [images(8)]), nn.Softmax(-1))
    path, refusal = result_or_refusal(lambda: qpass.export_onnx(around, tmp_path / "exported"))
    if refusal:
        assert "Sequential" in refusal
        return
    assert qpass.verify_onnx(around, path, images(3)).passed
    found = qpass.onnxruntime_model(around, path)(images(3))
    torch.testing.assert_close(found, around(images(3)), rtol=1e-3, atol=1e-3)


def float16(s: Net, x: Tensor) -> Tensor:
    return s.h(s.att(s.tok(x).half().float()).half().float().mean(1))


def test_casts_to_float16_work_or_are_refused(tmp_path: Path) -> None:
    case = lambda: judge(net(float16), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)  # noqa: E731
    graph, refusal = result_or_refusal(case)
    assert graph is not None or "float16" in refusal


def test_scripted_modules_work_or_are_refused(tmp_path: Path) -> None:
    model = net()
    scripted = torch.jit.trace(model, images(2), check_trace=False)
    with pytest.raises(QPassError):
        quantized(scripted, [images(16)])
