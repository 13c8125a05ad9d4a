"""traced -> canonical: one form per construct, so that later matchers stay small. Numerics are kept."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from qpass.errors import PassError
from qpass.graph.capture.refusals import refuse_half
from qpass.graph.edit import describe, dtype_of, finish, record_shapes, shape_of
from qpass.graph.facts import update_facts
from qpass.passes.base import Pass
from qpass.passes.rules import RULES

#: More rounds than any model needs. Rules that do not converge have a bug.
MAX_ROUNDS = 20


class Canonicalize(Pass):
    """Applies every rule of ``qpass.passes.rules`` until none applies.

    The facts then hold the nodes that rules declined.
    """

    takes, gives = "traced", "canonical"
    keeps_function = True

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        applied = dict[str, None]()
        for _ in range(MAX_ROUNDS):
            outcomes = {rule.name: rule.apply(graph_module) for rule in RULES}
            changing = [name for name, outcome in outcomes.items() if outcome.count]
            if not changing:
                break
            applied |= dict.fromkeys(changing)
            finish(graph_module)
        else:
            raise PassError(f"canonicalization does not converge: {changing}")
        if applied:
            check_results(graph_module, list(applied))
        refuse_half(graph_module)  # only now: rules settle the dtypes of regions and constants
        declined = tuple(near for outcome in outcomes.values() for near in outcome.declined)
        update_facts(graph_module, declined=declined)
        return bool(applied)


def check_results(graph_module: fx.GraphModule, applied: Sequence[str]) -> None:
    """Runs the graph and compares each node's recorded shape and dtype with the actual ones.

    A rule relies on the records of nodes that other rules created. A boolean mask without a dtype, for
    example, would be added to the logits as 0 and 1.

    Raises:
        PassError: If a record is missing or wrong.
    """
    claims = {node: (shape_of(node), dtype_of(node)) for node in graph_module.graph.nodes}
    record_shapes(graph_module)
    for node, claim in claims.items():
        if claim != (facts := (shape_of(node), dtype_of(node))):
            expected = "shape {} and dtype {}".format(*facts)
            recorded = "a rule recorded shape {} and dtype {}".format(*claim)
            raise PassError(f"{describe(node)}, {applied}: {recorded}; expected {expected}")
