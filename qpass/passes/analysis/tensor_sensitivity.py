"""What each tensor that a rule can address costs the output, at its bit width and at wider ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from qpass.config.widening import wider_changes, wider_specs
from qpass.data import ModelInputs
from qpass.graph.edit import get_plan
from qpass.passes.analysis.bit_widths import BitWidthOptions, bit_width_options, multiply_adds
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.analysis.tensor_errors import tensor_errors
from qpass.passes.plan import LayerPlan
from qpass.runtime.storage import Storage

#: Calibration samples that errors are measured on.
SAMPLES = 64


@dataclass(frozen=True)
class TensorSensitivity:
    """The tensors that one rule, or several rules together, give another bit width.

    These are one weight; or the activations of a module, such as queries, keys and values; or what
    several layers read through one quantizer.

    Attributes:
        members: (module path, role) of each layer's operand; roles as in rules.
        bits: The planned bit width.
        size: Values (weights), or multiply-adds that read it in the traced example.
        errors: For each bit width, the first-order error from quantizing it alone, as a share of the
            squared output. The planned bit width comes first.
        changes: What a rule changes for each of the wider bit widths.
    """

    members: tuple[tuple[str, str], ...]
    bits: int
    size: int
    errors: Mapping[int, float]
    changes: Mapping[int, Mapping[str, Any]]

    @property
    def role(self) -> str:
        """The role of the first member."""
        return self.members[0][1]

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths, each once."""
        return tuple(dict.fromkeys(path for path, _ in self.members))

    @property
    def error(self) -> float:
        """The error at the planned bit width."""
        return self.errors[self.bits]

    @property
    def widest(self) -> int:
        """The largest bit width."""
        return max(self.errors)


@dataclass(frozen=True)
class Sensitivity:
    """What the tensors of a network cost its output.

    Attributes:
        tensors: Each tensor, in order of execution, weights last.
        multiply_adds: Multiply-adds of each layer in the traced example, by module path.
    """

    tensors: tuple[TensorSensitivity, ...]
    multiply_adds: Mapping[str, int]


def measure_sensitivity(
    graph_module: fx.GraphModule,
    statistics: Statistics,
    batches: Sequence[ModelInputs],
    *,
    seed: int = 0,
    storage: Storage | None = None,
    show_progress: bool = False,
) -> Sensitivity:
    """Measures a quantized graph whose quantizers have been fitted and not changed since.

    Args:
        graph_module: The graph.
        statistics: Calibration statistics of its tensors.
        batches: Model inputs.
        seed: Random seed of the signs that probe the output.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        show_progress: Show a progress bar.
    """
    options = bit_width_options(graph_module, statistics, wider_specs)
    found = tensor_errors(
        graph_module, options, batches, samples=SAMPLES, seed=seed, storage=storage, show_progress=show_progress
    )
    counts: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        if isinstance(plan := get_plan(node), LayerPlan):
            counts[plan.path] = counts.get(plan.path, 0) + multiply_adds(graph_module, node)
    rows = [_row(option, errors) for option, errors in zip(options, found, strict=True)]
    return Sensitivity(tuple(_together(rows)), counts)


def _row(option: BitWidthOptions, errors: dict[int, float]) -> TensorSensitivity:
    members = dict.fromkeys(_member(node, index) for node, index in option.readers)
    changes = wider_changes(next(iter(members))[1], option.spec) if option.open else {}
    ordered = {bits: errors[bits] for bits in (option.spec.bits, *changes)}
    return TensorSensitivity(tuple(members), option.spec.bits, option.size, ordered, changes)


def _member(node: fx.Node, index: int | None) -> tuple[str, str]:
    plan = get_plan(node)
    assert isinstance(plan, LayerPlan)
    if index is None:
        return plan.path, "weight"
    return plan.path, next(operand.role for operand in plan.operands if operand.index == index)


def _together(rows: Sequence[TensorSensitivity]) -> Iterator[TensorSensitivity]:
    """Yields the rows, those that share a member as one: a rule changes all of them."""
    groups: list[list[TensorSensitivity]] = []
    for row in rows:
        shared = [group for group in groups if any(set(row.members) & set(other.members) for other in group)]
        groups = [group for group in groups if group not in shared]
        groups.append([other for group in shared for other in group] + [row])
    order = {id(row): index for index, row in enumerate(rows)}
    for group in sorted(groups, key=lambda group: min(order[id(row)] for row in group)):
        widths = [bits for bits in group[0].errors if all(bits in row.errors for row in group)]
        yield TensorSensitivity(
            members=tuple(dict.fromkeys(member for row in group for member in row.members)),
            bits=group[0].bits,
            size=sum(row.size for row in group),
            errors={bits: sum(row.errors[bits] for row in group) for bits in widths},
            changes={bits: change for bits, change in group[0].changes.items() if bits in widths},
        )
