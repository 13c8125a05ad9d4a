from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from qpass.nn import CompensatedLinear, QuantizedLinear
from qpass.quantizers import Uniform
from qpass.reconstruction.learner import BlockLearner
from qpass.reconstruction_config import ReconstructionConfig

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
            lambda samples: x[samples] @ (weight + extra).T,
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


def test_the_calibration_lowers_the_loss() -> None:
    problem = Problem()
    before = problem.loss()
    assert problem.learner.calibrate() == 150
    assert problem.loss() < 0.6 * before
