"""Names of a model's tensors that torch.fx cannot write into code, or that its graphs have taken for themselves."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection

import torch
from torch import fx, nn

#: Names of tensors at the top whose nodes would have the name of something else in code or in a file.
_TAKEN_NODES = ("self", "output")
#: What torch.fx may write between quotes.
_QUOTABLE = re.compile(r"[^\"'\\\r\n]+")


def rename_tensors(program: torch.export.ExportedProgram) -> None:
    """Gives new names to tensors that lie under a keyword, such as the key ``class`` of a ModuleDict, or under ``graph``.

    torch.export accepts such models, and then writes code that is not Python's or that overwrites parts of its graph.
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
    return any(keyword.iskeyword(part) or not _QUOTABLE.fullmatch(part) for part in (first, *rest))


def _safe(name: str, taken: Collection[str]) -> str:
    base = new = re.sub(r"\W", "_", name) + "_tensor"
    count = 0
    while new in taken:
        count += 1
        new = f"{base}_{count}"
    return new
