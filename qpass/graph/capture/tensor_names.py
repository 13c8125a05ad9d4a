"""Names of tensors and inputs that torch.fx cannot write into code, or that its graphs reserve."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Collection, Iterable

import torch
from torch import fx, nn

from qpass.errors import TraceError

#: Top-level tensor names whose nodes would clash with other names in code or in a file.
_TAKEN_NODES = ("self", "output")
#: Names that the generated code of a graph uses itself.
USED_BY_CODE = frozenset(
    {"self", "torch", "torchvision", "operator", "math", "builtins", "qpass", "pytree", "fx_pytree", "flatten_call"}
)
#: Text that torch.fx may write between quotes.
_QUOTABLE = re.compile(r"[^\"'\\\r\n]+")


def rename_tensors(program: torch.export.ExportedProgram) -> None:
    """Renames tensors whose paths hold a keyword, such as a ModuleDict's key ``class``, or ``graph``.

    torch.export accepts such models, but generates code that is not valid Python or that overwrites
    parts of its graph. Python also normalizes names in code, and then looks up a different name.
    """
    signature = program.graph_signature
    reserved = set(dir(fx.GraphModule(nn.Module(), fx.Graph())))
    taken = {*program.state_dict, *program.constants}
    new_names: dict[str, str] = {}
    for spec in signature.input_specs:
        if spec.target is not None and _is_unsafe(spec.target, reserved):
            new_names.setdefault(spec.target, _safe(spec.target, taken | set(new_names.values())))
    for spec in (*signature.input_specs, *signature.output_specs):
        spec.target = new_names.get(spec.target, spec.target) if spec.target is not None else None
    for tensors in (program.state_dict, program.constants):
        for old, new in new_names.items():
            if old in tensors:
                tensors[new] = tensors.pop(old)


def _is_unsafe(name: str, reserved: Collection[str]) -> bool:
    first, *rest = name.split(".")
    if first in reserved or (first in _TAKEN_NODES and not rest):
        return True
    return any(
        keyword.iskeyword(part) or not _QUOTABLE.fullmatch(part) or unicodedata.normalize("NFKC", part) != part
        for part in (first, *rest)
    )


def is_identifier(name: str) -> bool:
    """Returns whether a graph's code can use a name: ASCII, not a keyword, not in ``USED_BY_CODE``."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name not in USED_BY_CODE


def check_input_names(names: Iterable[str], model: nn.Module) -> None:
    """Refuses inputs whose names cannot be used in a graph's code.

    Raises:
        TraceError: If there are such names.
    """
    refused = [name for name in names if not is_identifier(name)]
    if refused:
        raise TraceError(
            f"forward has inputs named {refused}",
            where=type(model).__name__,
            expected=f"ASCII identifiers other than Python's keywords and {', '.join(sorted(USED_BY_CODE))}",
            hint="wrap the model in a module whose forward uses other names",
        )


def _safe(name: str, taken: Collection[str]) -> str:
    base = new = re.sub(r"\W", "_", name, flags=re.ASCII) + "_tensor"
    count = 0
    while new in taken:
        count += 1
        new = f"{base}_{count}"
    return new
