"""Traced graph -> functional graph: regions inlined, checks of the data gone, and no operator that writes into a tensor."""

from qpass.graph.capture.functionalize.autocast import without_autocast
from qpass.graph.capture.functionalize.functionalize import functionalize, refuse_writes
from qpass.graph.capture.functionalize.regions import is_region, region_linears

__all__ = ["functionalize", "is_region", "refuse_writes", "region_linears", "without_autocast"]
