"""Limits on a file's contents and names, checked before anything is built from it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from qpass.errors import DataError
from qpass.graph.capture.tensor_names import is_identifier
from qpass.runtime.arguments import is_number

#: Characters of a header. That of a ViT-L has 4 million.
HEADER_CHARACTERS = 2**25
#: Nodes of a graph and its regions. A ViT-L has 3,000, and a node takes about 10 kB in memory.
NODES = 50_000
#: Nesting depth of lists and mappings.
DEPTH = 64
#: Bytes of the example inputs together.
EXAMPLE_BYTES = 2**30
#: Values in the arguments of one node.
ARGUMENTS = 10_000
#: Characters of a name, and steps of a path.
NAME, STEPS = 1_000, 64
#: Tensors of a file, and regions of a graph.
TENSORS, REGIONS = 100_000, 1_000
#: Dims of a tensor, as torch itself allows.
DIMS = 64
#: Largest int64, which also stands for an open end of a slice.
_GREATEST_SIZE = 2**63 - 1

#: One step of a path to a tensor or module. It cannot end the quotes that torch.fx puts around it.
_STEP = re.compile(r"[^\t\n\r\f\v\"'\\(){}\[\].]+")


def check_depth(data: Any) -> None:
    """Rejects data that is nested more deeply than any graph's, because its readers are recursive.

    Raises:
        DataError: If it is too deep.
    """
    level = [data]
    for _ in range(DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise DataError("its data is nested", where="header", expected=f"at most {DEPTH} levels")


def identifier(name: Any, where: str) -> str:
    """Returns a text that may become a name in code.

    Raises:
        DataError: If it is not an identifier, or is one that the code itself uses.
    """
    if not isinstance(name, str) or len(name) > NAME or not is_identifier(name):
        raise DataError(f"has the name {_short(name)}", where=where, expected="an identifier of Python")
    return str(name)


def dotted_path(path: Any, where: str) -> str:
    """Returns a text that may become the path to a tensor or module.

    Raises:
        DataError: If it is not a valid path.
    """
    steps = path.split(".") if isinstance(path, str) and len(path) <= NAME else [""]
    # Python normalizes identifiers in code, and would read a different attribute.
    if len(steps) > STEPS or not all(_STEP.fullmatch(step) and unicodedata.normalize("NFKC", step) == step for step in steps):
        raise DataError(f"has the path {_short(path)}", where=where, expected="names with dots between")
    return str(path)


def shape(data: Any, where: str) -> list[int]:
    """Returns the sizes of a tensor.

    Raises:
        DataError: If they are not valid sizes.
    """
    fits = isinstance(data, list | tuple) and len(data) <= DIMS
    if not fits or not all(is_number(size, int) and 0 <= size <= _GREATEST_SIZE for size in data):
        raise DataError(f"has the shape {_short(data)}", where=where, expected="whole numbers")
    return list(data)


def example_shape(data: Any, element_bytes: int, room: int, where: str) -> list[int]:
    """Returns the sizes of an example input, which is allocated when a file is read.

    Args:
        data: Data of the file.
        element_bytes: Bytes per element.
        room: Bytes that it may take.
        where: Location for error messages.

    Raises:
        DataError: If they are not valid sizes, or too large.
    """
    sizes = shape(data, where)
    if math.prod(sizes) * element_bytes > room:
        raise DataError(f"has the shape {_short(data)}", where=where, expected=f"at most {EXAMPLE_BYTES} bytes together")
    return sizes


def check_counts(header: Mapping[str, Any], tensors: Collection[str]) -> None:
    """Rejects a file with more nodes, modules, regions or tensors than any graph: all cost memory.

    Raises:
        DataError: Naming what it has too many of.
    """
    nodes, waiting, regions, modules = 0, [header], 0, len(header["modules"])
    while waiting:
        graph = waiting.pop()
        own, inner = graph.get("nodes"), graph.get("regions")
        nodes += len(own) if isinstance(own, list) else 0
        found = [region for region in inner.values() if isinstance(region, dict)] if isinstance(inner, dict) else []
        regions += len(found)
        waiting += found
    found_counts = {"nodes": nodes, "modules": modules, "regions": regions, "tensors": len(tensors)}
    for (what, count), most in zip(found_counts.items(), (NODES, NODES, REGIONS, TENSORS), strict=True):
        if count > most:
            raise DataError(f"has {count} {what}", where=what, expected=f"at most {most}")


def check_size(data: Any, where: str) -> None:
    """Rejects arguments of more values than any node has: torch loops over them several times.

    Raises:
        DataError: If there are too many.
    """
    waiting, count = [data], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            count += len(item)
            waiting += item.values() if isinstance(item, dict) else item
        if count > ARGUMENTS:
            raise DataError("has too many arguments", where=where, expected=f"at most {ARGUMENTS} values")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
