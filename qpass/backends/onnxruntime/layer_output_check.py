"""Checks the output of each quantized layer of a file against the graph's, for the same codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from qpass.backends.onnx_qdq.layer_outputs import layer_outputs
from qpass.backends.onnxruntime.exact_outputs import Exact, ExactOutputs, factors_of
from qpass.backends.onnxruntime.forced import CodesOfFile
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.tolerance import differences
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.passes.analysis.sources import quantizer_of

#: Number of layers whose outputs are in memory at once.
_AT_ONCE = 8


@dataclass(frozen=True)
class LayerOutputCheck:
    """Check of a quantized layer, or a product of two activations, for torch's and for random codes.

    Attributes:
        layer: Its name in the graph.
        values: Number of values compared.
        off: Largest error against float64, as a multiple of what float32 explains. Infinite if
            shapes differ.
    """

    layer: str
    values: int
    off: float

    @property
    def failure(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        return "" if self.off <= 1 else f"{self.layer}: its output is {self.off:.3g} times as far off as float32 explains"


class LayerOutputs:
    """Checks the outputs of all layers of a graph.

    Args:
        wide: ``widened(graph_module)``.
    """

    def __init__(self, wide: fx.GraphModule) -> None:
        self._wide, self._ends = wide, layer_outputs(wide)

    def missing(self, file: CodesOfFile) -> list[str]:
        """Returns the layers whose outputs have no name in the file."""
        return [name for name in self._ends if name not in file.layer_outputs]

    def check(self, file: CodesOfFile, runs: Sequence[tuple[TorchRun, ModelInputs]]) -> list[LayerOutputCheck]:
        """Compares every layer of a file for the codes of each run, executing a few layers at a time.

        Args:
            file: The file.
            runs: Torch's runs, with their inputs by name.
        """
        found = [name for name in self._ends if name in file.layer_outputs]
        checks = []
        for start in range(0, len(found), _AT_ONCE):
            names = found[start : start + _AT_ONCE]
            sources = {name: self._float_input(name, file) for name in names}
            values = [file.layer_outputs[name] for name in names]
            part = file.excerpt([*values, *filter(None, sources.values())])
            session = OrtSession(part, folder=file.folder, optimized=False, arena=False)
            compared = [dict(self._compared(session, file, sources, *run)) for run in runs]
            checks += [
                LayerOutputCheck(
                    name, sum(each[name][0] for each in compared), max((each[name][1] for each in compared), default=0.0)
                )
                for name in names
            ]
        return checks

    def _float_input(self, name: str, file: CodesOfFile) -> str | None:
        """Returns the name of a layer's input in the file, or None if it is codes."""
        (factor, *_) = factors_of(self._wide, self._ends[name])
        if quantizer_of(self._wide, factor) is not None:
            return None
        return file.input_of(name, str(self._ends[name].target))

    def _compared(
        self,
        session: OrtSession,
        file: CodesOfFile,
        sources: Mapping[str, str | None],
        run: TorchRun,
        inputs: ModelInputs,
    ) -> Iterator[tuple[str, tuple[int, float]]]:
        """Yields, for each layer, the number of values compared and their largest error."""
        exact = ExactOutputs(self._wide, [self._ends[name] for name in sources], run.given, run.codes)
        feed = {name: array for name, array in file.feed(run.codes).items() if name in session.input_names}
        results = session.run({**session.feed(inputs), **feed})
        for name, source in sources.items():
            x = None if source is None else torch.from_numpy(results[source])
            found = torch.from_numpy(results[file.layer_outputs[name]])
            yield name, (found.numel(), _off(found, exact.of(self._ends[name], x)))


def _off(found: Tensor, exact: Exact) -> float:
    if found.shape != exact.value.shape:
        return torch.inf
    if not found.numel():
        return 0.0
    excess = differences(found, exact.value).div_(exact.slack.clamp_(min=torch.finfo(torch.float32).tiny))
    return float(excess.nan_to_num_(nan=0.0, posinf=torch.inf).amax())
