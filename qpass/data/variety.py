"""Warns of calibration data that cannot be real: inputs of one value, or copies of one sample."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_HINT = "ranges fitted on it fit nothing else: give samples of the data that the model will see"


@dataclass
class Variety:
    """Whether the batches seen so far differ at all.

    Attributes:
        samples: Number of rows seen.
    """

    samples: int = 0
    _first: dict[str, Tensor] = field(default_factory=dict)
    _constant: set[str] = field(default_factory=set)
    _repeated: bool = True

    def update(self, named: Mapping[str, Any]) -> None:
        """Looks at the tensors of one batch, by name."""
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor) and value.dim()}
        if not self._first:
            self._first = {name: value[:1].clone() for name, value in tensors.items()}
            self._constant = {name for name, value in tensors.items() if value.is_floating_point()}
        self.samples += max((len(value) for value in tensors.values()), default=0)
        for name in list(self._constant):
            first = self._first[name].flatten()[0]
            if not bool((tensors[name] == first).all()):
                self._constant.discard(name)
        if self._repeated:
            self._repeated = all(_equals(value, self._first[name]) for name, value in tensors.items())

    def warn(self) -> None:
        """Warns if every float input has a single value, or if all samples are the same.

        One constant input beside others is no fault: a mask that hides nothing, a scale.
        """
        floats = {name: value for name, value in self._first.items() if value.is_floating_point()}
        if floats and self._constant == floats.keys():
            values = ", ".join(f"{name} is {value.flatten()[0].item():g} everywhere" for name, value in floats.items())
            warnings.warn(f"calib_loader: {values}: {_HINT}", stacklevel=4)
        elif self._repeated and self.samples > 1:
            warnings.warn(f"calib_loader: all {self.samples} samples are the same: {_HINT}", stacklevel=4)


def _equals(value: Tensor, first: Tensor) -> bool:
    return value.shape[1:] == first.shape[1:] and bool((value == first).all())
