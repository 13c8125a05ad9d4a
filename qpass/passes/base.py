"""The contract of a pass: the stage it takes, the stage it gives, and an honest word on whether it changed the graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import fx

from qpass.errors import QPassError
from qpass.graph.capture.functionalize import refuse_writes
from qpass.graph.edit import finish, get_plan
from qpass.graph.facts import facts_of, update_facts

#: The stages of a graph, in order.
STAGES = ("traced", "canonical", "annotated", "calibrated", "quantized", "fitted", "frozen")


class Pass(ABC):
    """A step graph -> graph. A subclass names its stages and gives ``run``; callers call the pass.

    Attributes:
        takes: Stage that the graph must be at.
        gives: Stage that the graph is at afterwards.
        keeps_function: Whether the float network, quantizers off, computes afterwards what it computed before. It is then
            compared with the caller's model.
    """

    takes: ClassVar[str]
    gives: ClassVar[str]
    keeps_function: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph_module: fx.GraphModule) -> bool:
        """Changes the graph in place and returns whether it did. A second run changes nothing."""

    def __call__(self, graph_module: fx.GraphModule) -> bool:
        """Checks the stage, runs the pass, cleans the graph up, and compares declared with actual change.

        Raises:
            QPassError: If the graph is at another stage, the pass changed what it says it did not, or added a call that writes
                into a tensor.
        """
        name, stage = type(self).__name__, facts_of(graph_module).stage
        if stage != self.takes:
            raise QPassError(f"the graph is at stage {stage!r}", where=name, expected=repr(self.takes))
        before = fingerprint(graph_module)
        changed = self.run(graph_module)
        finish(graph_module)
        refuse_writes(graph_module)
        if not changed and fingerprint(graph_module) != before:
            raise QPassError("the pass reports no change and changed the graph", where=name, hint="return True from run")
        update_facts(graph_module, stage=self.gives)
        return changed


def fingerprint(graph_module: fx.GraphModule) -> str:
    """Returns the graph and its plans as text; equal texts mean an unchanged graph."""
    return "\n".join(f"{node.format_node()} {get_plan(node)}" for node in graph_module.graph.nodes)


def check_stages(passes: Sequence[Pass]) -> None:
    """Refuses a list in which one pass gives another stage than the next one takes.

    Raises:
        QPassError: Naming the two passes that do not join.
    """
    for first, second in pairwise(passes):
        if first.gives != second.takes:
            names = f"{type(first).__name__} -> {type(second).__name__}"
            raise QPassError(f"gives {first.gives!r}, but the next pass takes {second.takes!r}", where=names)
