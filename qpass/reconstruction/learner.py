"""Learns one block: rank search, then calibration.

Paper: AIQViT, https://arxiv.org/abs/2502.04628, eq. 9-17.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from qpass.config.options import BlockLoss
from qpass.config.reconstruction import ReconstructionConfig
from qpass.nn import CompensatedLinear
from qpass.quantizers import DynamicFocus, Quantizer, Uniform
from qpass.reconstruction.curriculum import Curriculum
from qpass.reconstruction.network_loss import NetworkLoss
from qpass.runtime.distributed import ALONE, Processes

#: Early stopping: weight of the newest loss in the running mean; ratio that is an improvement.
_SMOOTHING, _IMPROVEMENT = 0.02, 0.99
#: Times in a rank search that the entropy of its weights is recorded.
_ENTROPIES = 10


class BlockLearner:
    """Fits a block's output to a target by gradient descent.

    Args:
        block: Takes a batch of inputs and returns a tuple whose last entry is the block's output.
        inputs: Returns the inputs of some samples.
        targets: Returns the target outputs of some samples.
        config: Steps, learning rates and so on.
        generator: Random generator for batches, masks and splits.
        samples: Number of samples.
        constants: Tensors to learn besides the block's parameters, with their learning rates.
        autocast: Context manager for each forward pass.
        network_loss: Error of the network's outputs, added to the block's with ``output_weight``.
        processes: Processes that learn together, each from its own samples; gradients are averaged.
        on_step: Called after each step.
    """

    def __init__(
        self,
        block: nn.Module,
        inputs: Callable[[Tensor], tuple[Any, ...]],
        targets: Callable[[Tensor], Tensor],
        config: ReconstructionConfig,
        generator: torch.Generator,
        samples: int,
        *,
        constants: Sequence[tuple[Tensor, float]] = (),
        autocast: Callable[[], AbstractContextManager[Any]],
        network_loss: NetworkLoss | None = None,
        processes: Processes = ALONE,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._block, self._inputs, self._targets = block, inputs, targets
        self._config, self._generator, self._samples = config, generator, samples
        self._constants, self._autocast, self._processes, self._on_step = constants, autocast, processes, on_step
        self._network_loss = network_loss

    def losses(self, samples: Tensor) -> Tensor:
        """Returns ‖B_q(x) - B(x)‖_F of each sample (AIQViT eq. 10), or its square (I&S-ViT): (n,)."""
        return self._of_block(self._outputs(samples), samples)

    def _outputs(self, samples: Tensor) -> Sequence[Tensor]:
        with self._autocast():
            outputs: Sequence[Tensor] = self._block(*self._inputs(samples))
        return outputs

    def _of_block(self, outputs: Sequence[Tensor], samples: Tensor) -> Tensor:
        difference = outputs[-1].float() - self._targets(samples)
        norm = difference.reshape(len(samples), -1).norm(dim=1)
        return norm.square() if self._config.loss == BlockLoss.SQUARED else norm

    def _loss(self, samples: Tensor) -> Tensor:
        """Returns the loss of a step: the block's, and the network's if there is one."""
        outputs = self._outputs(samples)
        own = self._of_block(outputs, samples).mean()
        if self._network_loss is None:
            return own
        with self._autocast():
            errors = self._network_loss.errors(outputs, samples)
        return self._network_loss.weigh(own, errors, self._processes)

    def search(self, layers: list[CompensatedLinear]) -> list[tuple[float, ...]]:
        """Runs a first-order bilevel search.

        Architecture weights learn from one part of the samples, everything else from the other.

        Returns:
            The entropy of each layer's architecture weights over the steps; see ``RankSearch``.
        """
        config = self._config
        validation, training = self._split()
        alphas = [layer.alpha.requires_grad_() for layer in layers]
        architecture = torch.optim.Adam(alphas, lr=config.architecture_learning_rate, betas=(0.5, 0.999))
        rest, every = self._optimizer(config.search_steps), max(1, config.search_steps // _ENTROPIES)
        entropies = []
        for step in range(config.search_steps):
            for optimizer, pool in ((architecture, validation), (rest, training)):
                for layer in layers:
                    layer.draw_mask(config.drop_path, self._generator)
                chosen = torch.randint(len(pool), (config.batch_size,), generator=self._generator)
                self._step(optimizer, pool[chosen])
            rest.advance()
            self._on_step()
            if (step + 1) % every == 0:
                entropies.append([layer.entropy() for layer in layers])
        return list(zip(*entropies, strict=True))

    def _split(self) -> tuple[Tensor, Tensor]:
        """Returns validation and training samples, at least one each; a single sample is in both."""
        order = torch.randperm(self._samples, generator=self._generator)
        if self._samples == 1:
            return order, order
        held = min(max(1, round(self._config.validation_share * self._samples)), self._samples - 1)
        return order[:held], order[held:]

    def calibrate(self) -> int:
        """Learns until all steps are done or the loss stops improving; returns the number of steps."""
        config = self._config
        start = config.curriculum_start if config.curriculum else 1.0
        everything = torch.arange(self._samples)
        curriculum = Curriculum(everything, config.steps, self._difficulty, start=start, interval=config.curriculum_interval)
        optimizer, patience = self._optimizer(config.steps), _Patience(config.patience)
        for step in range(config.steps):
            loss = self._step(optimizer, curriculum.draw(step, config.batch_size, self._generator))
            optimizer.advance()
            self._on_step()
            if config.patience is not None:  # all processes must stop together
                loss = self._processes.sum(torch.tensor(loss)).item() / self._processes.size
            if patience.exhausted(loss):
                return step + 1
        return config.steps

    def _step(self, optimizer: _CosineAdam | torch.optim.Optimizer, samples: Tensor) -> float:
        self._block.zero_grad(set_to_none=True)
        constants = [constant for constant, _ in self._constants]
        for constant in constants:
            constant.grad = None
        loss = self._loss(samples)
        loss.backward()  # type: ignore[no-untyped-call]
        self._processes.average_gradients([*self._block.parameters(), *constants])
        optimizer.step()
        for module in self._block.modules():
            if isinstance(module, Quantizer):
                module.project()
        return loss.item()

    def _difficulty(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.losses(part) for part in samples.split(self._config.batch_size)]).cpu()

    def _optimizer(self, steps: int) -> _CosineAdam:
        modules = list(self._block.modules())
        focus = [p for module in modules if isinstance(module, DynamicFocus) for p in module.parameters()]
        scales = [module.scale for module in modules if isinstance(module, Uniform) and module.scale.requires_grad]
        alphas = [module.alpha for module in modules if isinstance(module, CompensatedLinear)]
        apart = {id(p) for p in [*focus, *scales, *alphas, *(constant for constant, _ in self._constants)]}
        rest = [p for p in self._block.parameters() if p.requires_grad and id(p) not in apart]
        groups = [
            {"params": rest, "lr": self._config.learning_rate},
            {"params": [p for p in focus if p.requires_grad], "lr": self._config.focus_learning_rate},
            *({"params": [scale], "lr": self._config.scale_learning_rate * scale.item()} for scale in scales),
            *({"params": [constant], "lr": rate} for constant, rate in self._constants),
        ]
        return _CosineAdam([group for group in groups if group["params"]], steps)


class _CosineAdam:
    """Adam with cosine decay of the learning rates to zero."""

    def __init__(self, groups: list[dict[str, Any]], steps: int) -> None:
        self._adam = torch.optim.Adam(groups)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, steps)

    def step(self) -> None:
        self._adam.step()

    def advance(self) -> None:
        self._schedule.step()


class _Patience:
    """Detects when a running mean has not improved for some steps."""

    def __init__(self, steps: int | None) -> None:
        self._steps, self._waited = steps, 0
        self._mean = self._best = float("inf")

    def exhausted(self, loss: float) -> bool:
        self._mean = loss if self._mean == float("inf") else self._mean + _SMOOTHING * (loss - self._mean)
        improved = self._mean < self._best * _IMPROVEMENT
        self._best, self._waited = (self._mean, 0) if improved else (self._best, self._waited + 1)
        return self._steps is not None and self._waited >= self._steps
