"""Scores of any network, graph or ONNX file on labelled batches, by any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.backends.onnxruntime import OrtSession
from qpass.data.batches import ModelInputs, model_inputs
from qpass.data.rows import batch_size
from qpass.errors import ConfigError, DataError, nearest
from qpass.evaluation.top1 import correct_classes, filled_up, paired_drop
from qpass.graph.capture.undisturbed import undisturbed
from qpass.graph.edit import device_of
from qpass.graph.facts import facts_of

#: Scores each sample of a batch, from the network's outputs and the batch's targets: (batch,).
SampleMetric = Callable[[Any, Any], Tensor]
METRICS: Mapping[str, SampleMetric] = {"top1": lambda outputs, labels: correct_classes(outputs, labels, "evaluate")}


@dataclass(frozen=True, repr=False)
class SampleScores:
    """One score for each sample.

    Attributes:
        values: The scores in the order of the samples: (samples,) float64.
    """

    values: Tensor

    @property
    def mean(self) -> float:
        """The mean; for top-1, the share of samples that are classified correctly."""
        return self.values.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return (self.values.std(correction=0) / len(self.values) ** 0.5).item()

    def drop_from(self, other: SampleScores) -> tuple[float, float]:
        """Returns the drop of the mean from other scores of the same samples, and its paired standard error.

        Raises:
            DataError: If they are of another number of samples.
        """
        if len(self.values) != len(other.values):
            raise DataError(
                f"{len(self.values)} scores against {len(other.values)}", where="drop_from", expected="the same samples"
            )
        return paired_drop(self.values, other.values)

    def __repr__(self) -> str:
        return f"<SampleScores: {self.mean:.4g} ± {self.standard_error:.2g} over {len(self.values)} samples>"


def score(network: Any, batches: Iterable[Any], metric: str | SampleMetric) -> SampleScores:
    """Returns the scores of a network; see ``qpass.evaluate``."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ConfigError(f"no metric is called {metric!r}", where="evaluate", hint=nearest(metric, METRICS))
        metric = METRICS[metric]
    found = list[Tensor]()
    runner = _Runner(network)
    with torch.no_grad(), runner.unchanged:
        for index, batch in enumerate(batches):
            if not isinstance(batch, (tuple, list)) or len(batch) < 2 or batch[1] is None:
                raise DataError(
                    f"a {type(batch).__name__} without targets", where=f"evaluate, batch {index}", expected="(inputs, targets)"
                )
            for outputs, targets in runner.run(batch[0], batch[1]):
                found.append(_checked(metric(outputs, targets), len(targets), index))
    if not found:
        raise DataError("no batches", where="evaluate", expected="at least one (inputs, targets) pair")
    return SampleScores(torch.cat(found))


class _Runner:
    """Runs batches through a network, in parts where its batch is fixed.

    Args:
        network: A model, a quantized graph, the path of an ONNX file, or a function of the inputs.
    """

    def __init__(self, network: Any) -> None:
        self.unchanged: AbstractContextManager[Any] = nullcontext()
        self._rows: int | None = None
        if isinstance(network, nn.Module):
            self.unchanged, device = undisturbed(network), device_of(network)
            self._call = lambda inputs: model_inputs(inputs, network).to(device)
            self._predict = lambda call: network(*call.args, **call.kwargs)
            if isinstance(network, fx.GraphModule) and (facts := facts_of(network)).example and not facts.dynamic_batch:
                self._rows = batch_size(facts.example)
        elif isinstance(network, (str, Path)):
            session = OrtSession(network)
            self._call, self._predict = _as_call, lambda call: _run_file(session, call)
            first = session.session.get_inputs()[0].shape[:1]
            self._rows = first[0] if first and isinstance(first[0], int) else None
        elif callable(network):
            self._call, self._predict = _as_call, lambda call: network(*call.args, **call.kwargs)
        else:
            raise ConfigError(
                f"got a {type(network).__name__}", where="evaluate", expected="a model, a graph, an ONNX file or a function"
            )

    def run(self, inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
        """Yields the outputs, on the CPU, with the targets that they belong to."""
        call = self._call(inputs)
        count = batch_size(call)
        rows = self._rows or count
        for start in range(0, count, rows):
            given = pytree.tree_map(lambda leaf: _part(leaf, start, rows, count), tuple(call))  # noqa: B023 (called here)
            kept = min(rows, count - start)
            outputs = pytree.tree_map(lambda leaf: _first(leaf, kept, rows), self._predict(ModelInputs(*given)))  # noqa: B023
            yield outputs, targets if rows == count else targets[start : start + rows]


def _as_call(inputs: Any) -> ModelInputs:
    """Returns a call of something whose parameters have no known names."""
    if isinstance(inputs, ModelInputs):
        return inputs
    if isinstance(inputs, Mapping):
        return ModelInputs((), dict(inputs))
    return ModelInputs(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {})


def _run_file(session: OrtSession, call: ModelInputs) -> Any:
    outputs = {name: torch.from_numpy(value) for name, value in session.run(session.feed(call)).items()}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _part(leaf: Any, start: int, rows: int, count: int) -> Any:
    """Returns rows of a tensor that has one for each sample, filled up with the first of them."""
    if not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != count:
        return leaf
    return filled_up(leaf[start : start + rows], rows)


def _first(leaf: Any, kept: int, rows: int) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf[:kept] if leaf.dim() and len(leaf) == rows else leaf).cpu()


def _checked(scores: Any, count: int, index: int) -> Tensor:
    """Returns what a metric returned, as float64.

    Raises:
        ConfigError: If it is not one finite number for each sample.
    """
    found = torch.as_tensor(scores).detach().cpu().double()
    if found.shape != (count,) or not bool(found.isfinite().all()):
        what = f"returned a tensor of shape {tuple(found.shape)}" if found.shape != (count,) else "returned NaN or infinity"
        raise ConfigError(
            what, where=f"evaluate, metric, batch {index}", expected=f"a finite score for each of {count} samples"
        )
    return found
