from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.data import ModelInputs
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, called_module, calls
from qpass.nn import QuantizedConv
from qpass.passes import Annotate, Calibrate, Canonicalize, InsertQuantizers
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.analysis.token_weights import EQUAL_SHARE, token_weights


class FirstToken(nn.Module):
    """Only the first token of what ``inner`` gives is read."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[:, 0])  # type: ignore[no-any-return]


def test_tokens_that_nothing_reads_weigh_the_equal_share() -> None:
    graph = trace(FirstToken().eval(), (torch.randn(6, 5, 4),))
    inner, _ = calls(graph, aten.linear.default)
    (weights,) = token_weights(graph, [inner], [ModelInputs((torch.randn(6, 5, 4),), {})])[inner]
    weights = weights.reshape(6, 5)
    assert torch.allclose(weights[:, 1:], torch.tensor(EQUAL_SHARE, dtype=torch.float64))
    assert bool((weights[:, 0] > EQUAL_SHARE).all())
    assert weights.mean().item() == pytest.approx(1.0)


def test_the_mean_over_probes_is_the_diagonal_of_the_hessian() -> None:
    """Two tokens whose ways to the output differ by a known factor."""

    class TwoTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 8), nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return self.first(y[:, 0]) + self.second(y[:, 1])  # type: ignore[no-any-return]

    model = TwoTokens().eval()
    x = torch.randn(1, 2, 4)
    graph = trace(model, (x.expand(2, 2, 4),))
    inner = next(iter(calls(graph, aten.linear.default)))
    probes = [
        token_weights(graph, [inner], [ModelInputs((x.expand(2, 2, 4),), {})], seed=seed)[inner][0] for seed in range(400)
    ]
    squared = (torch.stack(probes) - EQUAL_SHARE).clamp_min(0).reshape(400, 2, 2).mean((0, 1))
    expected = [layer.weight.double().square().sum().item() for layer in (model.first, model.second)]
    assert (squared[0] / squared[1]).item() == pytest.approx(expected[0] / expected[1], rel=0.25)


def test_rows_of_a_convolution_are_in_the_order_of_its_windows() -> None:
    """The first window alone is read, of an image of 2 x 2 windows."""

    class FirstWindow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 5, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.patches(x)[:, :, 0, 1]

    x = torch.randn(3, 3, 8, 8)
    graph = trace(FirstWindow().eval(), (x,))
    batches = [ModelInputs((x,), {})]
    statistics = Statistics()
    calibrate = Calibrate(batches, statistics, per_channel=False)
    for step in (Canonicalize(), Annotate(qpass.QuantConfig()), calibrate, InsertQuantizers(statistics)):
        step(graph)
    graph = float_reference(graph)
    convolution = next(node for node in graph.graph.nodes if isinstance(called_module(graph, node), QuantizedConv))
    (weights,) = token_weights(graph, [convolution], batches)[convolution]
    assert (weights.reshape(3, -1) > EQUAL_SHARE).sum(0).nonzero().flatten().tolist() == [1]


def test_weights_are_rounded_for_the_tokens_that_are_read() -> None:
    """The first token, which alone is read, has other directions than the great ones behind it."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(24, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x)[:, 0])  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 6, 24, generator=generator) * torch.tensor([1.0, 4.0])[:, None, None]

    def inputs(count: int) -> Tensor:
        first, rest = (torch.randn(count, n, 6, generator=generator) @ mix for n, mix in zip((1, 7), mixing, strict=True))
        return torch.cat([first, rest], 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Wide().eval()
    batches, unseen = list(inputs(64).split(8)), inputs(64)
    rules = {"*": {"activation": None}, "head": None}
    errors = {}
    for weights in ("equal", "hessian"):
        config = {"preset": "w3a8", "token_weights": weights, "rules": rules}
        graph = qpass.quantize_graph(model, batches, config, progress=False)
        errors[weights] = (graph(unseen) - model(unseen)).square().sum().item()
    assert errors["hessian"] < 0.85 * errors["equal"]


def test_other_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"token_weights: got 'hesian'.*hessian"):
        qpass.QuantConfig.from_any({"preset": "w4a4", "token_weights": "hesian"})
