from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from qpass.config.reconstruction import ReconstructionConfig
from qpass.nn import CompensatedLinear, QuantizedLinear
from qpass.quantizers import Uniform
from qpass.reconstruction.learner import BlockLearner

SAMPLES = 40


class OneLayer(nn.Module):
    """A block of one compensated Linear, which returns a tuple as segments do."""

    def __init__(self, layer: CompensatedLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(x),)


class Problem:
    """A Linear whose 3-bit weight is to give what its float weight plus a matrix of rank 2 gives."""

    def __init__(self, **settings: object) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(12, 16, generator=generator)
        extra = torch.randn(12, 2, generator=generator) @ torch.randn(2, 16, generator=generator) * 0.3
        x = torch.randn(SAMPLES, 7, 16, generator=generator)
        self.wanted = weight + extra
        plain = QuantizedLinear(weight, None, Uniform(3, signed=True, axis=0).fit(weight)).requires_grad_(False)
        self.layer = CompensatedLinear(plain, (1, 2, 8), generator)
        for parameter in (self.layer.A, self.layer.B):
            parameter.requires_grad_()
        self.asked: list[Tensor] = []

        def inputs(samples: Tensor) -> tuple[Tensor]:
            self.asked.append(samples)
            return (x[samples],)

        options = {"steps": 150, "search_steps": 60, "batch_size": 8, "learning_rate": 0.02, "curriculum": False, **settings}
        self.learner = BlockLearner(
            OneLayer(self.layer),
            inputs,
            lambda samples: x[samples] @ self.wanted.T,
            ReconstructionConfig(**options),  # type: ignore[arg-type]
            torch.Generator().manual_seed(1),
            SAMPLES,
            autocast=nullcontext,
        )

    def loss(self) -> float:
        with torch.no_grad():
            return self.learner.losses(torch.arange(SAMPLES)).mean().item()


def test_the_loss_is_the_frobenius_norm_of_each_sample() -> None:
    problem = Problem()
    losses = problem.learner.losses(torch.tensor([3, 5]))
    assert losses.shape == (2,)
    (x,) = problem.learner._inputs(torch.tensor([3, 5]))
    difference = problem.layer(x) - problem.learner._targets(torch.tensor([3, 5]))
    torch.testing.assert_close(losses.double(), difference.double().square().sum((1, 2)).sqrt(), rtol=1e-5, atol=1e-5)


def test_the_search_learns_its_architecture_on_samples_of_their_own() -> None:
    problem = Problem(validation_share=0.25)
    problem.learner.search([problem.layer])
    validation, training = torch.cat(problem.asked[::2]).unique(), torch.cat(problem.asked[1::2]).unique()
    assert len(validation) == 10
    assert not set(validation.tolist()) & set(training.tolist())
    assert len(validation) + len(training) == SAMPLES


def test_the_search_moves_the_architecture_and_the_factors() -> None:
    problem = Problem(architecture_learning_rate=0.05)
    before = problem.loss()
    problem.learner.search([problem.layer])
    assert problem.layer.alpha.abs().max() > 0.01
    problem.layer.mask.fill_(1)
    assert problem.loss() < before
    assert int(problem.layer.alpha.argmax()) != 0, "rank 1 cannot hold what is missing"


def test_the_squared_loss_is_the_squared_error_of_each_sample() -> None:
    problem, samples = Problem(loss="squared"), torch.tensor([3, 5, 8])
    (x,) = problem.learner._inputs(samples)
    difference = problem.layer(x) - problem.learner._targets(samples)
    expected = difference.detach().double().square().sum((1, 2))
    torch.testing.assert_close(problem.learner.losses(samples).detach().double(), expected, rtol=1e-5, atol=1e-5)


def test_the_calibration_comes_near_what_rounding_the_wanted_weight_leaves() -> None:
    """The wanted weight lies in reach of the factors: its rounding to the same scales, which knows no data, is the yardstick."""
    problem = Problem()
    (x,) = problem.learner._inputs(torch.arange(SAMPLES))
    assert problem.layer.quantizer is not None
    rounding = problem.layer.quantizer(problem.wanted) - problem.wanted
    left = (x @ rounding.T).reshape(SAMPLES, -1).norm(dim=1).mean().item()
    assert problem.loss() > 2 * left
    assert problem.learner.calibrate() == 150
    assert problem.loss() < 1.2 * left


def test_rates_fall_to_zero_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[float]] = []
    step = torch.optim.Adam.step

    def record(self: torch.optim.Adam, *arguments: object) -> object:
        used.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    Problem(steps=20, learning_rate=0.02).learner.calibrate()
    expected = [0.02 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)]
    assert [rate for (rate,) in used] == pytest.approx(expected, rel=1e-6)


def test_the_steps_are_those_of_adam_on_the_samples_that_were_drawn() -> None:
    """Done again by hand, with Adam's equations in float64 and the cosine in closed form."""
    problem, again = Problem(steps=12), Problem(steps=12)
    problem.learner.calibrate()
    factors, moments = [again.layer.A, again.layer.B], [[0.0, 0.0], [0.0, 0.0]]
    for t, samples in enumerate(problem.asked):
        gradients = torch.autograd.grad(again.learner.losses(samples).mean(), factors)
        rate = 0.02 * (1 + math.cos(math.pi * t / 12)) / 2
        for factor, gradient, moment in zip(factors, gradients, moments, strict=True):
            g = gradient.double()
            moment[0], moment[1] = 0.9 * moment[0] + 0.1 * g, 0.999 * moment[1] + 0.001 * g**2
            first, second = moment[0] / (1 - 0.9 ** (t + 1)), moment[1] / (1 - 0.999 ** (t + 1))
            factor.data -= (rate * first / (second.sqrt() + 1e-8)).float()
    torch.testing.assert_close(problem.layer.A, again.layer.A, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(problem.layer.B, again.layer.B, rtol=1e-3, atol=1e-4)


class Enough(Exception):
    """Ends a calibration early."""


def test_with_a_curriculum_the_first_batches_are_of_the_easiest_samples() -> None:
    """Easiest by the loss of each sample, ranked again after every ``curriculum_interval`` steps."""
    problem = Problem(curriculum=True, curriculum_start=0.25, curriculum_interval=4, steps=4000, learning_rate=1e-9)
    with torch.no_grad():
        losses = problem.learner.losses(torch.arange(SAMPLES))
    problem.asked.clear()
    drawn: list[Tensor] = []

    def on_step() -> None:
        drawn.append(problem.asked[-1])
        if len(drawn) == 16:
            raise Enough

    problem.learner._on_step = on_step
    with pytest.raises(Enough):
        problem.learner.calibrate()
    easiest = losses.argsort()[:11]  # a quarter of the samples at step 0, and more from the next step on
    assert set(torch.cat(drawn).tolist()) <= set(easiest.tolist())
    assert len(problem.asked) == 16 + 4 * SAMPLES // 8, "all samples were ranked at steps 0, 4, 8 and 12, in batches of 8"


def test_without_a_curriculum_batches_are_of_all_samples_and_none_is_ranked() -> None:
    problem = Problem(curriculum=False, curriculum_start=0.25, curriculum_interval=4, steps=40, learning_rate=1e-9)
    problem.learner.calibrate()
    assert len(problem.asked) == 40
    assert len(torch.cat(problem.asked).unique()) == SAMPLES
