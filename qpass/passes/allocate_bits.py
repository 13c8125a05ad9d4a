"""quantized -> quantized: allocates a bit width to every tensor and weight within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from qpass.config.budget import LIMITS, BudgetConfig
from qpass.data import ModelInputs
from qpass.errors import ConfigError
from qpass.graph.facts import facts_of, update_facts
from qpass.passes.analysis.bit_widths import bit_width_options, budget_candidates, megabytes_beside_weights
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.analysis.tensor_errors import tensor_errors
from qpass.passes.base import Pass
from qpass.runtime.storage import Storage
from qpass.solvers.bit_allocation import Options, allocate, least_cost


@dataclass(frozen=True)
class Allocated:
    """The bit width allocated to one tensor or weight.

    Attributes:
        path: Module path of the first layer that reads it.
        kind: ``"activation"`` or ``"weight"``.
        bits: The allocated bit width.
        size: Multiply-adds that read it in the traced example (activations), or values (weights).
        errors: For each bit width, the first-order error from quantizing it alone, as a share of the
            squared output.
    """

    path: str
    kind: str
    bits: int
    size: int
    errors: Mapping[int, float]


class AllocateBits(Pass):
    """Measures the first-order output error of each candidate bit width alone, then chooses jointly.

    A 0-1 linear program finds the bit widths with the least total error within the limits. The
    network's input keeps its bit width. So does anything that a rule or its role gives a bit width
    other than that of ``activation`` or ``weight``. Mean bit widths are over the rest.

    Args:
        budget: The limits; None leaves the graph unchanged.
        batches: Model inputs.
        statistics: Calibration statistics of the tensors.
        seed: Random seed of the signs that probe the output.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        show_progress: Show a progress bar.
    """

    takes, gives = "quantized", "quantized"

    def __init__(
        self,
        budget: BudgetConfig | None,
        batches: Sequence[ModelInputs],
        statistics: Statistics,
        *,
        seed: int = 0,
        storage: Storage | None = None,
        show_progress: bool = False,
    ) -> None:
        self.budget, self.batches, self.statistics, self.seed = budget, batches, statistics, seed
        self.storage, self.show_progress = storage, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``.

        Raises:
            ConfigError: If no choice of bit widths meets a limit.
        """
        if self.budget is None or facts_of(graph_module).allocation is not None:
            return False
        limits = {name: value for name in LIMITS if (value := getattr(self.budget, name)) is not None}
        tensors = bit_width_options(graph_module, self.statistics, budget_candidates(graph_module, self.budget))
        totals = {kind: sum(t.size for t in tensors if t.kind == kind and t.open) for kind in ("activation", "weight")}
        costs = [tensor.costs(totals[tensor.kind]) for tensor in tensors]
        beside = Options([0.0], {"file_mb": [megabytes_beside_weights(graph_module)]})
        _check([*(Options([], cost) for cost in costs), beside], limits)
        errors = tensor_errors(
            graph_module,
            tensors,
            self.batches,
            samples=self.budget.samples,
            seed=self.seed,
            storage=self.storage,
            show_progress=self.show_progress,
        )
        options = [Options(list(of.values()), cost) for of, cost in zip(errors, costs, strict=True)]
        *chosen, _ = allocate([*options, beside], limits)
        rows = []
        for tensor, of, index in zip(tensors, errors, chosen, strict=True):
            bits = list(of)[index]
            tensor.choose(graph_module, bits)
            rows.append(Allocated(tensor.path, tensor.kind, bits, tensor.size, of))
        update_facts(graph_module, allocation=tuple(rows))
        return True


def _check(things: Sequence[Options], limits: Mapping[str, float]) -> None:
    for name, limit in limits.items():
        if (least := least_cost(things, name)) > limit:
            raise ConfigError(
                f"got {limit}",
                where=f"budget.{name}",
                expected=f"at least {least:.3g} with these bit widths",
                hint="raise the limit or allow smaller bit widths",
            )
