"""A fixed order of samples, loaded one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Decodes(Protocol):
    """What turns image files into tensors, such as an ``ImageTransform``."""

    def decode(self, data: bytes, where: str) -> Tensor:
        """Returns the tensor of an image file; ``where`` names it in messages."""


@dataclass(frozen=True)
class ImageSource:
    """Samples in a fixed order: ``load(i)`` returns a tensor, ``labels[i]`` its class if known.

    Names of images are paths relative to their folder or zip.
    """

    where: str
    names: Sequence[str]
    labels: Sequence[int] | None
    load: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, chosen: Sequence[int]) -> ImageSource:
        """Returns the samples at these indices, in this order."""
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return ImageSource(self.where, [self.names[i] for i in chosen], labels, lambda i: self.load(chosen[i]))
