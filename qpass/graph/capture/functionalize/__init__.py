"""Traced graph -> functional graph: inlined regions, no assertions, no writes into tensors."""

from qpass.graph.capture.functionalize.autocast import without_autocast
from qpass.graph.capture.functionalize.functionalize import functionalize, refuse_writes
from qpass.graph.capture.functionalize.regions import is_region, region_linears
from qpass.runtime.public_names import only

__all__ = ["functionalize", "is_region", "refuse_writes", "region_linears", "without_autocast"]
__dir__ = only(__all__)
