"""Channels of activation functions are evened out where that helps, and the network stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig, QuantSpec
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.graph.facts import facts_of
from qpass.passes import Annotate, Canonicalize, ScaleChannels
from qpass.passes.scale_channels import LEAST_SHARE, best_ratio
from qpass.quantizers import Uniform
from qpass.runtime.distributed import Processes


class Mlp(nn.Module):
    """Channels of the hidden tensor grow by a factor of up to ``spread``."""

    def __init__(self, act: nn.Module, spread: float = 100.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fc1, self.act, self.fc2 = nn.Linear(16, 32), act, nn.Linear(32, 8)
        with torch.no_grad():
            self.fc1.weight.mul_(torch.logspace(0, torch.log10(torch.tensor(spread)).item(), 32)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


X = torch.randn(64, 6, 16, generator=torch.Generator().manual_seed(1))


def scaled(model: nn.Module, recipe: str = "w4a4", **options: object) -> tuple[fx.GraphModule, bool]:
    graph = trace(model.eval(), (X[:4],))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any(recipe))(graph)
    return graph, ScaleChannels([ModelInputs((part,), {}) for part in X.split(16)], **options)(graph)  # type: ignore[arg-type]


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.ReLU(), nn.Hardswish(), nn.ELU()], ids=lambda act: type(act).__name__)
def test_uneven_channels_are_scaled_and_the_function_stays(act: nn.Module) -> None:
    model = Mlp(act)
    graph, changed = scaled(model)
    assert changed
    assert len(list(calls(graph, aten.mul.Tensor))) == 1
    ((path, strength),) = facts_of(graph).channel_strengths
    assert (path, strength > 0) == ("act", True)
    torch.testing.assert_close(graph(X), model(X), rtol=1e-5, atol=1e-4)
    again = ScaleChannels([ModelInputs((X,), {})])(graph)
    assert not again
    assert facts_of(graph).channel_strengths == ((path, strength),)


def test_even_channels_cost_no_operator() -> None:
    class Same(Mlp):
        """All hidden channels have the same values in another order, so that every ratio is near 1."""

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.act(torch.stack([x.flatten(1).roll(n, 1)[:, :6] for n in range(32)], -1)))

    graph, changed = scaled(Same(nn.GELU()), "w8a8")
    assert not changed
    assert not list(calls(graph, aten.mul.Tensor))


def test_only_outputs_of_activation_functions_are_scaled() -> None:
    class Other(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.fc1(x)) + self.fc2(self.act(self.fc1(x)).transpose(0, 1).transpose(0, 1))

    graph, _ = scaled(Other(nn.GELU()))
    assert len(facts_of(graph).channel_strengths) == 1


def test_the_best_strength_is_that_of_an_exhaustive_search() -> None:
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(2)).relu() * torch.logspace(0, 2, 8)
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    strength, ratio = best_ratio(x, weight, QuantSpec(bits=4), None)
    judged = torch.arange(400) % 4 == 3
    share = x[~judged].amax(0).double()
    share = share / share.mean()
    errors = {}
    for tried in (0.0, 0.25, 0.5, 0.75, 1.0):
        quantizer = Uniform(4).fit((x[~judged] / share**tried).float())
        errors[tried] = (quantizer((x[judged] / share**tried).float()) * share**tried - x[judged]).double() @ weight.T
    least = min(errors, key=lambda tried: errors[tried].square().sum().item())
    assert strength == least > 0
    torch.testing.assert_close(ratio, share**least)


def test_a_quiet_channel_is_not_raised_without_bound() -> None:
    """What is near zero on these rows may be large on others."""
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 1.0, 50.0])
    _, ratio = best_ratio(x, torch.ones(2, 3, dtype=torch.float64), QuantSpec(bits=4), None)
    assert ratio.min() >= LEAST_SHARE
    strength, ratio = best_ratio(torch.zeros(8, 3), torch.ones(2, 3, dtype=torch.float64), QuantSpec(bits=4), None)
    assert strength == 0
    assert torch.equal(ratio, torch.ones(3, dtype=torch.float64))


def test_processes_decide_as_one_does() -> None:
    """Each process sees its batches; the rows of all of them come in the order of the batches."""
    alone, _ = scaled(Mlp(nn.GELU()))

    class First(Processes):
        """The first of two processes; the other's rows are those that it would send."""

        def gather(self, value: object) -> list[object]:
            assert isinstance(value, list)
            return [value, other] if isinstance(value[0], list) else [value, value]

    collected: list[object] = []

    class Second(Processes):
        def gather(self, value: object) -> list[object]:
            collected.append(value)
            return [value, value]

    scaled(Mlp(nn.GELU()), processes=Second(1, 2))
    other = collected[0]
    together, _ = scaled(Mlp(nn.GELU()), processes=First(0, 2))
    assert facts_of(together).channel_strengths == facts_of(alone).channel_strengths
    torch.testing.assert_close(together.state_dict(), alone.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["w4a4", "codebook-w4a4"])
def test_the_whole_way(recipe: str, tmp_path: Path) -> None:
    model = Mlp(nn.GELU(), 1000.0).eval()
    errors = {}
    for on in (False, True):
        graph = qpass.quantize_graph(model, [X], {"preset": recipe, "scale_channels": on}, progress=False)
        assert isinstance(graph, fx.GraphModule)
        path = qpass.export_onnx(graph, tmp_path / f"{on}.onnx")
        assert qpass.verify_onnx(graph, path, X[:8]).passed
        errors[on] = (graph(X) - model(X)).square().sum().item()
        report = qpass.quantization_report(graph)
        assert [path for path, _ in report.channel_strengths] == (["act"] if on else [])
        assert ("strength of channel scales" in str(report)) == on
    assert errors[True] < 0.7 * errors[False]


def test_a_scaled_gelu_uses_the_last_codes_and_a_gate_does_not() -> None:
    """A GELU has a lower bound, so that saturation clips it if its last code is 255."""

    class Gated(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.act(self.fc1(x)) * self.fc1(x.flip(-1)))

    ends = {}
    for model, path in ((Mlp(nn.GELU(), 1000.0), "act"), (Gated(nn.GELU()), "fc2")):
        graph = qpass.quantize_graph(model.eval(), [X], {"preset": "w4a4", "scale_channels": True}, progress=False)
        modules = graph.named_modules()
        ends[path] = {module.code_max for name, module in modules if name.startswith("mul") and isinstance(module, Uniform)}
    assert ends == {"act": {255}, "fc2": {15}}
