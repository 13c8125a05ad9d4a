"""The contract of a pass: its input stage, its output stage, and whether it changed the graph."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import fx

from qpass.errors import PassError, QPassError
from qpass.graph.capture.functionalize import refuse_writes
from qpass.graph.edit import finish
from qpass.graph.facts import facts_of, update_facts
from qpass.passes.fingerprint import fingerprint
from qpass.passes.invariants import check_invariants

_LOG = logging.getLogger(__name__)


class Pass(ABC):
    """A graph transformation: subclasses declare stages and implement ``run``; callers call it.

    Attributes:
        takes: Stage that the graph must be at.
        gives: Stage that the graph is at afterwards.
        keeps_function: Whether the float network (quantizers off) computes the same as before. If so,
            it is compared with the caller's model.
    """

    takes: ClassVar[str]
    gives: ClassVar[str]
    keeps_function: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph_module: fx.GraphModule) -> bool:
        """Transforms the graph in place and returns whether it changed. A second run changes nothing."""

    def __call__(self, graph_module: fx.GraphModule) -> bool:
        """Checks the stage, runs the pass, cleans up, and checks the invariants of the new stage.

        Errors other than ``QPassError`` get a note that names the pass.

        Raises:
            PassError: If the graph is at a different stage, the pass reports no change but made one,
                or an invariant of the new stage does not hold.
            QPassError: If the pass added a call that writes into a tensor.
        """
        name, stage = type(self).__name__, facts_of(graph_module).stage
        if stage != self.takes:
            raise PassError(f"{name}: the graph is at stage {stage!r}; expected {self.takes!r}")
        before, begun = fingerprint(graph_module), time.monotonic()
        try:
            changed = self.run(graph_module)
            finish(graph_module)
            refuse_writes(graph_module)
            check_invariants(graph_module, self.gives)
            if not changed and fingerprint(graph_module) != before:
                raise PassError("the pass reports no change and changed the graph; return True from run")
        except Exception as error:
            if not isinstance(error, QPassError):
                error.add_note(f"in the pass {name}")
            raise
        update_facts(graph_module, stage=self.gives)
        _LOG.info("%s: %.2f s%s", name, time.monotonic() - begun, "" if changed else ", nothing to change")
        return changed


def check_stages(passes: Sequence[Pass]) -> None:
    """Checks that each pass ends at the stage that the next one takes.

    Raises:
        PassError: If two adjacent passes do not match; names both.
    """
    for first, second in pairwise(passes):
        if first.gives != second.takes:
            names = f"{type(first).__name__} -> {type(second).__name__}"
            raise PassError(f"{names}: gives {first.gives!r}, but the next pass takes {second.takes!r}")
