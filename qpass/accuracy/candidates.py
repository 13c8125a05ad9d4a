"""The candidates, from a recipe as it is to its widest form, in the order of what each change gains.

Two stages. First, tensors get more bits, up to 8. Then, layers stay in float. In each stage, the
change comes first that lowers the estimated error most for what it costs. A candidate has all
changes of those before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from qpass.config import QuantConfig
from qpass.config.rule_text import float_rule, merged_rules, tensor_rules
from qpass.errors import ConfigError, nearest
from qpass.passes.analysis.bit_widths import stored_bits
from qpass.passes.analysis.tensor_sensitivity import Sensitivity, TensorSensitivity

#: What a file should be first of all.
PREFERENCES = ("size", "speed")
#: What the other of the two counts for.
OTHER_WEIGHT = 0.1
#: Candidates of the first stage. More would differ by less than a metric can tell.
MOST_OF_A_STAGE = 32
#: Largest share of the multiply-adds, or of the weights, in layers that stay float.
MOST_IN_FLOAT = 0.5
#: Recipes to start from, if none is given: small, or as fast on a processor as any.
STARTS = {"size": "w4a8", "speed": "w8a8"}


@dataclass(frozen=True)
class Candidate:
    """One form of a recipe.

    Attributes:
        label: What it is.
        rules: The rules that are added to the recipe's.
    """

    label: str
    rules: tuple[Mapping[str, Any], ...] = ()

    def config(self, recipe: QuantConfig) -> QuantConfig:
        """Returns the recipe with these rules."""
        return recipe.with_rules(*self.rules) if self.rules else recipe


@dataclass(frozen=True)
class _Step:
    """One change.

    Attributes:
        gain: Estimated error that it removes.
        cost: What it costs, as a share.
        bits: The tensor and its new bit width; None for layers that stay float.
        paths: The layers that stay float.
    """

    gain: float
    cost: float
    bits: tuple[TensorSensitivity, int] | None = None
    paths: tuple[str, ...] = ()

    @property
    def worth(self) -> float:
        """What it gains for its cost."""
        return self.gain / max(self.cost, 1e-30)


def check_preference(prefer: str) -> str:
    """Returns the preference.

    Raises:
        ConfigError: If it is unknown.
    """
    if prefer not in PREFERENCES:
        raise ConfigError(f"got {prefer!r}", where="prefer", hint=nearest(str(prefer), PREFERENCES))
    return prefer


def candidates_of(found: Sensitivity, prefer: str) -> tuple[list[Candidate], int]:
    """Returns the candidates and the index of that with all tensors at their widest and none in float.

    The first is the recipe as it is.

    Args:
        found: What each tensor costs the output.
        prefer: ``"size"`` or ``"speed"``: whether bytes of weights or bits of multiply-adds cost more.
    """
    costs = _Costs(found, prefer)
    wider = sorted(costs.widening(), key=lambda step: -step.worth)
    made, rules = [Candidate("the recipe as it is")], list[dict[str, Any]]()
    for group in _groups(wider):
        for step in group:
            assert step.bits is not None
            tensor, bits = step.bits
            rules += tensor_rules(tensor.members, tensor.changes[bits])
        rules = merged_rules(rules)
        count = sum(len(change) for rule in rules for change in rule.values())
        made.append(Candidate(f"step {len(made)}: {_counted(count, 'tensor')} wider", tuple(rules)))
    widest, paths = len(made) - 1, list[str]()
    for step in costs.floats():
        paths += step.paths
        label = f"step {len(made)}: {'all tensors at 8 bits, ' if wider else ''}{_counted(len(paths), 'layer')} in float"
        made.append(Candidate(label, tuple(merged_rules([*rules, *map(float_rule, paths)]))))
    return made, widest


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _groups(steps: Sequence[_Step]) -> list[list[_Step]]:
    """Returns the steps in order, in at most ``MOST_OF_A_STAGE`` groups of about equal cost."""
    if len(steps) <= MOST_OF_A_STAGE:
        return [[step] for step in steps]
    ends = list(accumulate(step.cost for step in steps))
    places = [min(MOST_OF_A_STAGE - 1, int(MOST_OF_A_STAGE * end / ends[-1])) for end in ends]
    together = groupby(zip(places, steps, strict=True), key=lambda pair: pair[0])
    return [[step for _, step in group] for _, group in together]


class _Costs:
    """Prices the changes, as shares of all weights at 8 bits and of all multiply-adds at 8 bits."""

    def __init__(self, found: Sensitivity, prefer: str) -> None:
        self.found = found
        self.values = max(1, sum(tensor.size for tensor in found.tensors if tensor.role == "weight"))
        self.multiply_adds = max(1, sum(found.multiply_adds.values()))
        self.factors = {name: 1.0 if name == prefer else OTHER_WEIGHT for name in PREFERENCES}

    def cost(self, tensor: TensorSensitivity, bits: int) -> float:
        """Returns the cost of a tensor at a bit width."""
        if tensor.role == "weight":
            return self.factors["size"] * tensor.size * stored_bits(bits) / (8 * self.values)
        return self.factors["speed"] * tensor.size * bits / (8 * self.multiply_adds)

    def widening(self) -> Iterable[_Step]:
        """Yields the steps of each tensor to its widest, each worth less than the one before."""
        for tensor in self.found.tensors:
            widths = list(tensor.errors)
            while len(widths) > 1:
                now, *wider = widths
                steps = [
                    _Step(
                        tensor.errors[now] - tensor.errors[bits],
                        self.cost(tensor, bits) - self.cost(tensor, now),
                        (tensor, bits),
                    )
                    for bits in wider
                ]
                chosen = max(range(len(steps)), key=lambda index: steps[index].worth)
                yield steps[chosen]
                widths = wider[chosen:]

    def floats(self) -> Iterable[_Step]:
        """Yields the layers to leave in float, in order, until they hold too much of the network.

        Layers that read one quantizer stay float together.
        """
        steps, shares = [], {}
        for paths in self._connected():
            tensors = [tensor for tensor in self.found.tensors if set(tensor.paths) <= set(paths)]
            weights = sum(tensor.size for tensor in tensors if tensor.role == "weight") / self.values
            products = sum(self.found.multiply_adds.get(path, 0) for path in paths) / self.multiply_adds
            cost = 3 * (self.factors["size"] * weights + self.factors["speed"] * products)  # from 8 to 32 bits
            steps.append(_Step(sum(tensor.errors[tensor.widest] for tensor in tensors), cost, paths=paths))
            shares[paths] = weights, products
        held = [0.0, 0.0]
        for step in sorted(steps, key=lambda step: -step.worth):
            held = [before + more for before, more in zip(held, shares[step.paths], strict=True)]
            if max(held) > MOST_IN_FLOAT:
                return
            yield step

    def _connected(self) -> list[tuple[str, ...]]:
        groups: list[tuple[str, ...]] = []
        for tensor in self.found.tensors:
            joined = [group for group in groups if set(group) & set(tensor.paths)]
            groups = [group for group in groups if group not in joined]
            groups.append(tuple(dict.fromkeys([path for group in joined for path in group] + list(tensor.paths))))
        return groups
