"""Results of a forced file for given codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.forced import COMPUTED, VALUE, CodesOfFile
from qpass.backends.onnxruntime.session import OrtSession
from qpass.data import ModelInputs

#: Maximum bytes of results in memory at once. Earlier layers run again for each group of
#: quantizers.
AT_ONCE = 2**29


class ForcedRun:
    """Results of a forced file, computed for one group of quantizers at a time to limit memory.

    Args:
        file: The file.
        session: Session of ``file.forced()``.
        inputs: Inputs of one call, by name.
        codes: Codes of every quantizer.
        outputs: Names of the network's outputs.
        values: Whether the session outputs the values that are rounded to codes.

    Attributes:
        outputs: The network's outputs by name.
    """

    def __init__(
        self,
        file: CodesOfFile,
        session: OrtSession,
        inputs: ModelInputs,
        codes: Mapping[str, Tensor],
        outputs: Sequence[str],
        *,
        values: bool,
    ) -> None:
        self._file, self._session = file, session
        self._feed = {**session.feed(inputs), **file.feed(codes)}
        endings = (COMPUTED, VALUE) if values else (COMPUTED,)
        groups = list(_groups({name: codes[name].numel() * (5 if values else 1) for name in codes}))
        self._names = [[name + CODES + ending for name in group for ending in endings] for group in groups]
        self._group = {name: index for index, group in enumerate(groups) for name in group}
        is_whole = len(groups) <= 1
        found = session.run(self._feed, None if is_whole else list(outputs))
        self.outputs = {name: found[name] for name in outputs}
        self._held, self._results = (0, found) if is_whole else (-1, {})

    def codes(self, quantizer: str) -> Tensor:
        """Returns the codes that the file computes for a quantizer."""
        return self._file.read(quantizer, self._result(quantizer, COMPUTED))

    def value(self, quantizer: str) -> Tensor:
        """Returns the values that the file rounds to a quantizer's codes."""
        return torch.from_numpy(self._result(quantizer, VALUE))

    def _result(self, quantizer: str, ending: str) -> np.ndarray:
        group = self._group[quantizer]
        if group != self._held:
            self._results = {}  # frees them before the next group runs
            self._held, self._results = group, self._session.run(self._feed, self._names[group])
        return self._results[quantizer + CODES + ending]


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yields groups of names in order, at most ``AT_ONCE`` bytes each unless one alone is larger."""
    group, taken = list[str](), 0
    for name, size in sizes.items():
        if group and taken + size > AT_ONCE:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += size
    if group:
        yield group
