"""Quantizes as narrowly as a metric allows: see ``qpass.quantize_to_accuracy``."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.accuracy.candidates import Candidate, candidates_of, check_preference
from qpass.accuracy.drop import Metric, Scores, as_scores, drop_of, least_limit, samples_for
from qpass.accuracy.result import AccuracyResult, Trial, trial_table
from qpass.accuracy.search import first_that_meets
from qpass.accuracy.shared_samples import SharedSamples
from qpass.accuracy.trials import Trials, key_of
from qpass.backends.onnx_qdq import export_float, export_quantized
from qpass.backends.onnx_qdq.targets import target_by_name
from qpass.backends.onnxruntime import OrtModule
from qpass.backends.onnxruntime.latency import benchmark
from qpass.compiler.request import Request, Subject
from qpass.compiler.resume import locked_checkpoint_dir, run_fingerprint
from qpass.config import QuantConfig
from qpass.config.fields import number
from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.errors import AccuracyError, ConfigError, DistributedError
from qpass.graph.capture.trace import trace
from qpass.graph.capture.undisturbed import undisturbed
from qpass.graph.device import on_cpu
from qpass.graph.edit import device_of, example_inputs
from qpass.graph.facts import facts_of
from qpass.progress import say
from qpass.runtime.distributed import Processes

_LOG = logging.getLogger(__name__)
#: Timed rounds of each candidate.
ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is asked for.

    Attributes:
        evaluate: The metric; higher is better.
        max_drop: Largest drop from the float network, in units of the metric.
        prefer: ``"size"`` or ``"speed"``.
        measure_speed: Whether to time each candidate.
        target: Runtime that files are written for.
        weight_type: Type of 8-bit weights.
        threads: Threads of onnxruntime during evaluation; 0 uses its default.

    Raises:
        ConfigError: If a value is invalid.
    """

    evaluate: Metric
    max_drop: float
    prefer: str
    measure_speed: bool = False
    target: str = "onnxruntime"
    weight_type: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if not callable(self.evaluate):
            raise ConfigError(f"got a {type(self.evaluate).__name__}", where="evaluate", expected="a function of a network")
        number(lambda drop: drop >= 0, "a number of 0 or more")(self.max_drop, "max_drop")
        check_preference(self.prefer)
        target_by_name(self.target).stores_int8(self.weight_type)


def keep_accuracy(request: Request, subject: Subject, goal: Goal, folder: Path | None = None) -> AccuracyResult:
    """Returns the first candidate that keeps the goal; see ``qpass.quantize_to_accuracy``.

    Args:
        request: What to quantize, and how.
        subject: What it has read.
        goal: What is asked for.
        folder: Where to keep trials; None keeps none.

    Raises:
        AccuracyError: If no candidate keeps the goal.
        ConfigError: If the recipe has a budget or no form for the target, the samples cannot show so
            small a drop, or the folder is of another run.
        DataError: If a sample is calibrated and evaluated on.
        DistributedError: If several processes share the work.
    """
    if request.config.budget is not None:
        hint = "leave budget out; instead of mixed-w4a5 take w4a4"
        raise ConfigError("a budget and max_drop both choose bit widths", where="budget", hint=hint)
    if target_by_name(goal.target).lowering.explicit and not request.config.signed_codes:
        hint = "add signed_codes: true to the recipe"
        raise ConfigError(f"{goal.target} cannot express zero points", where="target", hint=hint)
    if Processes.current().size > 1:
        raise DistributedError("max_drop is given", where="torch.distributed", expected="a single process")
    facts: Mapping[str, Any] = {}
    if folder is not None:
        facts = run_fingerprint(subject.network, subject.batches, request.config, request.seed)
        facts = {name: fact for name, fact in facts.items() if name not in ("config", "number of processes")}
        facts = {**facts, "target": goal.target, "weight type": goal.weight_type}
    with _claimed(folder, facts):
        return _Search(request, subject, goal, folder).run()


@contextmanager
def _claimed(folder: Path | None, facts: Mapping[str, Any]) -> Iterator[None]:
    if folder is None:
        yield
        return
    with locked_checkpoint_dir(folder, facts, "candidates"):
        yield


@dataclass
class _Search:
    """One run.

    Attributes:
        request: What to quantize, and how.
        subject: What it has read.
        goal: What is asked for.
        folder: Where to keep trials, or None.
        trials: Those that were kept before.
        base: Scores of the float network.
        candidates: All candidates.
        tried: The trials of this run, by the candidate's index.
        kept: The last candidate that keeps the goal, and its network: the search goes on to narrower
            ones only, so no other may be the result.
    """

    request: Request
    subject: Subject
    goal: Goal
    folder: Path | None
    trials: Trials = field(init=False)
    base: Scores = field(init=False)
    candidates: list[Candidate] = field(default_factory=list)
    tried: dict[int, Trial] = field(default_factory=dict)
    kept: tuple[int, fx.GraphModule] | None = None

    def run(self) -> AccuracyResult:
        """Tries candidates until one keeps the goal and the one before it does not."""
        self.trials = Trials(self.folder)
        self._evaluate_float()
        self.candidates, landmark = [Candidate("the recipe as it is")], 0
        found: int | None = 0
        if not self._meets(0):
            self.candidates, landmark = candidates_of(self._sensitivity(), self.goal.prefer)
            found = first_that_meets(len(self.candidates), landmark, self._meets)
        if found is None:
            raise self._failure()
        config = self.candidates[found].config(self.request.config)
        graph = self.kept[1] if self.kept is not None and self.kept[0] == found else self._quantize(config)
        for index in self.tried if self.folder is not None else ():
            shutil.rmtree(self._blocks(self.candidates[index].config(self.request.config)), ignore_errors=True)
        return AccuracyResult(
            graph=graph,
            config=config,
            drop=drop_of(self.tried[found].scores, self.base),
            max_drop=self.goal.max_drop,
            float_scores=self.base,
            trials=self._ordered(),
        )

    def _ordered(self) -> tuple[Trial, ...]:
        return tuple(self.tried[index] for index in sorted(self.tried))

    def _evaluate_float(self) -> None:
        network, device = self.subject.network, device_of(self.subject.network)

        def predict(*args: Any, **kwargs: Any) -> Any:
            call = self.subject.in_its_type(ModelInputs(args, kwargs)).to(device)
            outputs = network(*call.args, **call.kwargs)
            return pytree.tree_map_only(Tensor, lambda tensor: tensor.cpu(), outputs)

        with undisturbed(network):
            self.base = self.trials.base(self._evaluate(SharedSamples(self.subject.batches).watching(predict)))
        least = least_limit(self.base)
        if least > self.goal.max_drop:
            few = f"even a network that changes no sample drops {least:.2f} at most, with 95 % confidence"
            enough = f"{samples_for(self.goal.max_drop, self.base)} at least" if self.goal.max_drop else "a max_drop above 0"
            raise ConfigError(
                f"{len(self.base.values)} samples are too few to show a drop of {self.goal.max_drop:g}: {few}",
                where="evaluate",
                expected=enough,
            )
        self._say(f"float: {self.base.mean:.2f}")

    def _evaluate(self, predict: Callable[..., Any]) -> Scores:
        with torch.no_grad():
            return as_scores(self.goal.evaluate(predict))

    def _sensitivity(self) -> Any:
        config = self.request.config
        found = self.trials.sensitivity(config)
        if found is None:
            found = self.request.measure(self.subject)
            self.trials.add_sensitivity(config, found)
        return found

    def _meets(self, index: int) -> bool:
        if index not in self.tried:
            candidate = self.candidates[index]
            config = candidate.config(self.request.config)
            known = self.trials.find(config)
            if known is None or (self.goal.measure_speed and known.speedup is None):
                known = self._try(index, config)
                self.trials.add(config, known)
            self.tried[index] = replace(known, label=candidate.label)
            drop = drop_of(self.tried[index].scores, self.base)
            verdict = "kept" if drop.limit <= self.goal.max_drop else "too much"
            self._say(f"{candidate.label}: {known.size / 1e6:.3f} MB, drop {drop}: {verdict}")
        return drop_of(self.tried[index].scores, self.base).limit <= self.goal.max_drop

    def _try(self, index: int, config: QuantConfig) -> Trial:
        graph = self._quantize(config)
        with tempfile.TemporaryDirectory() as scratch:
            path, deployed = Path(scratch) / "model.onnx", on_cpu(graph)
            export_quantized(deployed, path, target=self.goal.target, weight_type=self.goal.weight_type)
            size = sum(file.stat().st_size for file in Path(scratch).iterdir())
            scores = self._evaluate(OrtModule(deployed, path, threads=self.goal.threads).eval())
            speedup = self._speedup(deployed, path) if self.goal.measure_speed else None
        if drop_of(scores, self.base).limit <= self.goal.max_drop:
            self.kept = index, graph
        return Trial(self.candidates[index].label, config.to_dict(), size, scores, speedup)

    def _speedup(self, graph: fx.GraphModule, path: Path) -> float:
        base = export_float(trace(on_cpu(self.subject.network), *example_inputs(graph)), path.parent / "float.onnx")
        rows = 1 if facts_of(graph).dynamic_batch else batch_size(facts_of(graph).example)
        timed = benchmark(
            {"float": base, "quantized": path}, baseline="float", batches=(rows,), runs=ROUNDS, show_progress=False
        )
        return timed.rows[-1].speedup

    def _quantize(self, config: QuantConfig) -> fx.GraphModule:
        blocks = None if self.folder is None else self._blocks(config)
        graph = self.request.with_config(config, blocks).quantize(self.subject)
        assert isinstance(graph, fx.GraphModule)
        return graph

    def _blocks(self, config: QuantConfig) -> Path:
        """Returns the folder of the learned blocks of a candidate."""
        assert self.folder is not None
        return self.folder / key_of(config)

    def _failure(self) -> AccuracyError:
        drop = drop_of(self.tried[max(self.tried)].scores, self.base)
        enough = drop.value <= self.goal.max_drop
        error = AccuracyError(
            f"no candidate keeps it: the widest, {self.candidates[-1].label}, drops {drop}",
            where=f"max_drop {self.goal.max_drop:g}",
            hint="evaluate on more samples: the drop itself is small enough"
            if enough
            else "start from a wider recipe or one that learns, or check the preprocessing of the calibration images",
        )
        error.table = trial_table(self._ordered(), self.base, self.goal.max_drop)
        return error

    def _say(self, line: str) -> None:
        _LOG.info("%s", line)
        say(line, show=self.request.progress)
