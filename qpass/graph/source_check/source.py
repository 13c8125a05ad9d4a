"""Compares the graphs made from the caller's model with that model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.data import ModelInputs
from qpass.data.rows import Layout, batch_size, even_batches, repeat_rows, split_rows
from qpass.errors import SourceError
from qpass.graph.capture.undisturbed import undisturbed
from qpass.graph.edit import copy_tensors, describe, example_inputs, flat_inputs, module_path, ordered_inputs
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.fills import filled_outputs
from qpass.graph.masks import mask_ranges
from qpass.graph.signature.input_dims import layout_of, tie_rows
from qpass.graph.source_check.module_outputs import ModuleErrors, recorded_outputs
from qpass.graph.source_check.noise import COARSER, ROUNDING, NoisyRun
from qpass.graph.source_check.output_error import has_values, output_error, same_shapes
from qpass.graph.source_check.result import SourceCheck
from qpass.quantizers import Quantizer
from qpass.runtime.storage import Storage
from qpass.runtime.torch_modes import kept_random_state

#: Rows of the first batch, and of the second one, which runs if the batch is dynamic.
FIRST_ROWS, OTHER_ROWS = 3, 1
#: Number of draws of simulated roundings, and the bound as a multiple of their effect.
DRAWS, NOISE_RATIO = 2, 2.0
#: Errors up to this pass without a measured bound. A few hundred operators round by this much; most
#: networks stay below it.
LEAST_BOUND = 512 * ROUNDING
#: Relative change that simulated roundings may cause in a mask's fill value, over a few operators.
FILL_ROUNDING = 16 * COARSER * ROUNDING


class Source:
    """Holds the caller's model's outputs for a few calibration samples, and compares graphs with them.

    The model runs on construction: twice on the first batch, and once on another batch size if the
    graph's batch is dynamic.

    Args:
        model: The caller's model, left unchanged.
        graph_module: The traced graph.
        batches: Calibration batches.
        storage: Where to keep module outputs; None keeps them in memory.

    Raises:
        SourceError: If the model's outputs differ when it is called again.
    """

    def __init__(
        self,
        model: nn.Module,
        graph_module: fx.GraphModule,
        batches: Sequence[ModelInputs],
        storage: Storage | None = None,
    ) -> None:
        self._name = type(model).__name__
        self._calls = _calls(graph_module, batches)
        self._filled = filled_outputs(graph_module)
        with undisturbed(model):
            self._outputs = [_call(model, inputs) for inputs in self._calls[:-1]]
            with recorded_outputs(model, Storage() if storage is None else storage) as self._modules:
                self._outputs.append(_call(model, self._calls[-1]))
        valued = has_values(self._outputs)
        if not valued:
            warnings.warn(
                f"{self._name}: an output of the model is NaN or infinite throughout on calibration samples: nothing can be "
                "compared with it; look for masks that leave nothing, and for inputs out of range",
                stacklevel=2,
            )
        samples = sum(map(batch_size, self._calls[1:]))
        self._seen = SourceCheck(samples=samples, error=0.0, bound=LEAST_BOUND, passes=(), valued=valued)
        #: Paths of modules whose outputs the graph reproduces. Rotations and folds rightly change some.
        self._agreeing = set(self._modules)
        if (error := output_error(self._outputs[1], self._outputs[0])) > LEAST_BOUND:
            raise SourceError(
                f"the model gives other outputs when it is called again with the same inputs: they differ by {error:.1e}",
                where=self._name,
                expected="outputs that do not depend on former calls",
                hint="pass its state as an input, draw random numbers outside of forward, give F.dropout self.training",
            )

    def check(self, graph_module: fx.GraphModule, step: str, reference: fx.GraphModule | None = None) -> None:
        """Compares a graph, quantizers off, with the model, and records the result in the graph's facts.

        Args:
            graph_module: A graph that should compute the model's function in float.
            step: Name of the last step, for messages.
            reference: Its float network, compared in its place; None if the graph's weights are float.

        Raises:
            SourceError: If they differ. Names the step and the first node that differs.
        """
        network = graph_module if reference is None else reference
        with quantizers_off(network), torch.no_grad(), kept_random_state():
            modules = ModuleErrors(network, self._modules)
            runs = [network] * (len(self._calls) - 1) + [_Flat(network, modules)]
            outputs = [_call(run, inputs) for run, inputs in zip(runs, self._calls, strict=True)]
            again = output_error(outputs[1], outputs[0]) > LEAST_BOUND
            errors = [
                output_error(*pair, channels=True, filled=self._filled) for pair in zip(outputs, self._outputs, strict=True)
            ]
            bound = self._seen.bound
            if max(errors) > bound and not again:
                alike = all(same_shapes(*pair) for pair in zip(outputs, self._outputs, strict=True))
                bound = self._bound(network, outputs, alike=alike)
        if again or max(errors) > bound:
            self._refuse(modules, step, errors, bound, again=again)
        self._agreeing = {module_path(node) for node in modules.agreeing}
        error, passes = max(self._seen.error, *errors), (*self._seen.passes, step)
        self._seen = replace(self._seen, error=error, bound=bound, passes=passes)
        update_facts(graph_module, source_check=self._seen)

    def _bound(self, network: fx.GraphModule, expected: Sequence[Any], *, alike: bool) -> float:
        """Returns the largest error that rounding explains: the graph's sensitivity on distinct calls.

        Args:
            network: The graph.
            expected: Its outputs for every call, without simulated roundings.
            alike: Whether the outputs have the model's shapes. If not, no bound holds unless rounding
                changes shapes as well.
        """
        different = sorted({0, len(self._calls) - 1})
        masks = mask_ranges(network)
        runs = [_Flat(network, NoisyRun(network, seed, masks)) for seed in range(DRAWS)]
        pairs = [(_call(run, self._calls[index]), expected[index]) for index in different for run in runs]
        if not alike and all(same_shapes(*pair) for pair in pairs):
            return self._seen.bound
        moved = [output_error(*pair, FILL_ROUNDING, channels=True, filled=self._filled) for pair in pairs]
        return max(self._seen.bound, NOISE_RATIO * max(moved))

    def _refuse(self, modules: ModuleErrors, step: str, errors: Sequence[float], bound: float, *, again: bool) -> None:
        worst = 1 if again else max(range(len(errors)), key=lambda index: errors[index])
        first = modules.first_difference(self._agreeing)
        raise SourceError(
            f"after {step} the float graph differs from the given model "
            f"{'when it is called again' if again else f'on a batch of {batch_size(self._calls[worst])}'}: "
            f"by {errors[worst]:.1e} of an output's size",
            where=self._name if first is None else describe(first),
            expected=f"at most {bound:.1e}, which the roundings of float32 explain",
            hint=_hint(step, again=again, other_rows=worst == 2),
        )


def _hint(step: str, *, again: bool, other_rows: bool) -> str:
    if step == "trace" and again:
        return "if its forward makes weights when it is first called, call the model once before; draw no random numbers in it"
    change = f"change a forward that treats {OTHER_ROWS} row differently from several; otherwise "
    return f"{change if step == 'trace' and other_rows else ''}this is a fault of qpass: please report the model"


class _Flat:
    """Makes an interpreter callable like its graph."""

    def __init__(self, graph_module: fx.GraphModule, run: fx.Interpreter) -> None:
        self._graph_module, self._run = graph_module, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run.run(*flat_inputs(self._graph_module, args, kwargs))


def _calls(graph_module: fx.GraphModule, batches: Sequence[ModelInputs]) -> list[ModelInputs]:
    """Returns the first batch twice, and one of another size if the batch is dynamic."""
    if not facts_of(graph_module).dynamic_batch:
        rows = batch_size(facts_of(graph_module).example)
        first = (split_rows(batches[0], rows) or [ModelInputs(*example_inputs(graph_module))])[0]
        return [first, first]
    ordered = [ModelInputs(*ordered_inputs(graph_module, *batches[index])) for index in range(min(2, len(batches)))]
    tensors = [leaf for leaf in pytree.tree_leaves(tuple(ordered[0])) if isinstance(leaf, Tensor)]
    tie_rows(graph_module, [[tensor.shape[0] if tensor.dim() else 1 for tensor in tensors]])
    layout = layout_of(graph_module)
    update_facts(graph_module, layout=None)
    first = split_rows(ordered[0], min(FIRST_ROWS, batch_size(ordered[0], layout)), layout=layout)[0]
    other = split_rows(ordered[0], OTHER_ROWS, layout=layout)[-1]
    if batch_size(first, layout) == OTHER_ROWS:
        first = _two_rows([first, *(split_rows(batch, 1, layout=layout)[0] for batch in ordered[1:])], layout)
    return [first, first, other]


def _two_rows(single: Sequence[ModelInputs], layout: Layout) -> ModelInputs:
    """Joins two one-row batches, or repeats the first if they cannot be joined."""
    joined = next(even_batches(single, least=2, most=2, layout=layout))
    return joined if batch_size(joined, layout) == 2 else repeat_rows(single[0], 2, layout)


def _call(model: Any, inputs: ModelInputs) -> Any:
    """Runs a model on copied inputs and copies its outputs."""
    args, kwargs = copy_tensors(tuple(inputs))
    return copy_tensors(model(*args, **kwargs))


@contextmanager
def quantizers_off(graph_module: nn.Module) -> Iterator[None]:
    """Disables every quantizer inside the block."""
    switched = [module for module in graph_module.modules() if isinstance(module, Quantizer) and module.enabled]
    for module in switched:
        module.enabled = False
    try:
        yield
    finally:
        for module in switched:
            module.enabled = True
