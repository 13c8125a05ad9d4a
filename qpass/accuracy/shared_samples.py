"""Keeps calibration and evaluation samples apart: refuses a sample that is in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.errors import DataError


class SharedSamples:
    """Recognizes calibration samples, by the values of all their input tensors.

    Args:
        batches: The calibration batches; read once.
    """

    def __init__(self, batches: Iterable[ModelInputs]) -> None:
        self._known = {sample for batch in batches for sample in _samples(batch)}

    def noting(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Passes batches of one input on, and adds their samples to the calibration samples."""
        for batch in batches:
            self._known.update(_samples(ModelInputs((batch,), {})))
            yield batch

    def watching(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that checks each call's samples before it calls ``predict``.

        Raises (from the function):
            DataError: If a sample was calibrated on.
        """

        def watched(*args: Any, **kwargs: Any) -> Any:
            for row, sample in enumerate(_samples(ModelInputs(args, kwargs))):
                if sample in self._known:
                    raise DataError(
                        f"evaluates a calibration sample (row {row} of a batch)",
                        where="evaluate",
                        expected="samples that are not used for calibration",
                        hint="evaluate on other images: what is calibrated on looks better than it is",
                    )
            return predict(*args, **kwargs)

        return watched


def _samples(batch: ModelInputs) -> Iterator[bytes]:
    """Yields a digest of each row: of its values in all tensors that have rows."""
    tensors = [leaf.detach().cpu() for leaf in pytree.tree_leaves(tuple(batch)) if isinstance(leaf, Tensor)]
    rows = batch_size(tuple(batch))
    whole = [tensor for tensor in tensors if tensor.dim() and tensor.shape[0] == rows]
    for row in range(rows if whole else 0):
        digest = hashlib.sha256()
        for tensor in whole:
            digest.update(tensor[row].float().contiguous().numpy().tobytes())
        yield digest.digest()
