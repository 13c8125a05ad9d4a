"""Error of the network's outputs while a block is learned: float blocks read the block's output.

GLF-Q adds it to the block's own error, each divided by its first value. There it is measured at the
network's final feature, here at the network's outputs, which every network has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qpass.reconstruction.samples import SampleStore
from qpass.reconstruction.segments import Segment
from qpass.runtime.distributed import Processes

_LEAST = 1e-30


class NetworkLoss:
    """Squared errors of the float network's outputs when it reads a block's outputs.

    Args:
        rest: The float network after the block.
        block: The same block of the float network: its outputs are the values that are replaced.
        floats: The float network's values, those of ``rest.inputs`` and ``rest.outputs`` among them.
        weight: Weight of the network's error, where the block's own has weight 1.
        device: Where the network is.
    """

    def __init__(self, rest: Segment, block: Segment, floats: SampleStore, weight: float, device: torch.device) -> None:
        self._rest, self._replaced, self._floats = rest, block.outputs, floats
        self._weight, self._device = weight, device
        self._first: Tensor | None = None

    def errors(self, outputs: Sequence[Any], samples: Tensor) -> Tensor:
        """Returns the mean squared error of each output that depends on the block.

        Args:
            outputs: The learned block's outputs.
            samples: Indices of the samples; (n,).
        """
        replaced = dict(zip(self._replaced, outputs, strict=True))
        read = (replaced[name] if name in replaced else self._value(name, samples) for name in self._rest.inputs)
        values = self._rest.graph_module(*read)
        pairs = zip(values, self._rest.outputs, strict=True)
        return torch.stack(
            [
                _squared_error(value, self._value(name, samples))
                for value, name in pairs
                if isinstance(value, Tensor) and value.requires_grad and self._floats.has_rows(name)
            ]
            or [torch.zeros((), device=self._device)]
        )

    def weigh(self, own: Tensor, errors: Tensor, processes: Processes) -> Tensor:
        """Returns the block's own loss plus the weighted mean of ``errors``, each over its first value."""
        if self._first is None:
            both = torch.cat([own.detach()[None], errors.detach()]).double().cpu()
            self._first = (processes.sum(both) / processes.size).clamp(min=_LEAST).to(own)
        return own / self._first[0] + self._weight * (errors / self._first[1:]).mean()

    def _value(self, name: str, samples: Tensor) -> Any:
        return self._floats.get(name, samples, self._device)


def _squared_error(value: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error where the target is finite: masked outputs are infinite in both."""
    difference = torch.where(target.isfinite(), value.float() - target, 0.0)
    return difference.square().mean()
