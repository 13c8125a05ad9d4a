"""traced -> canonical: one form for each idea, so that the matchers behind stay small. Numerics are kept."""

from __future__ import annotations

from torch import fx

from qpass.graph import finish, record_shapes
from qpass.passes.base import Pass
from qpass.passes.rules import RULES

#: More rounds than any model needs; a rule that never comes to rest is a bug, not a long model.
MAX_ROUNDS = 20


class Canonicalize(Pass):
    """Applies every rule of ``qpass.passes.rules`` until none applies."""

    takes, gives = "traced", "canonical"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        for round_ in range(MAX_ROUNDS):
            applied = [rule.__module__ for rule in RULES if rule(graph_module)]
            if not applied:
                return round_ > 0
            finish(graph_module)
            record_shapes(graph_module)
        raise RuntimeError(f"canonicalization does not come to rest: {applied}")
