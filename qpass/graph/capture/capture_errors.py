"""Turns errors of torch.export into errors that name the module, the source line and the remedy."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch
from torch import nn

from qpass.errors import QPassError, TraceError, UnsupportedError, first_line

#: Patterns in torch.export's messages, their cause, and the remedy. The first match counts.
_KINDS = (
    (
        r"Found <class .*> in (output|input|inputs), which is not a known type",
        "it returns an object whose tensors torch.export does not see",
        "return a tensor, tuple, NamedTuple or dict; or call torch.export.register_dataclass on a dataclass before",
    ),
    (
        r"specialized integer from data-dependent",
        "it converts a tensor's values to a Python number",
        "if it never changes, as with the maximum of a buffer, compute it in __init__ and keep the int; else drop int(): "
        "t.max().item() alone can be a size or the end of a slice; or pass it as an input",
    ),
    (
        r"data-dependent expression|data-dependent control flow",
        "its control flow, or a Python number, depends on a tensor's values",
        "compute numbers that never change in __init__ and keep them as Python numbers; choose by torch.where; or "
        "quantize in parts whose control flow depends on no data: submodules=('backbone', ...)",
    ),
    (
        r"quantized nyi|QuantizedMeta|quantized tensors?\b",
        "it quantizes tensors itself",
        "quantize the float model that it was made from, or take the rounding out of its forward",
    ),
    (
        r"\.(numpy|tolist)\(\) is not supported|can't call numpy|Cannot convert.*numpy",
        "it turns a tensor into a NumPy array",
        "compute with torch's functions, and make constant arrays in __init__",
    ),
    (
        r"fake tensor in the exported program constant's list",
        "it computes with a tensor beside what torch.export follows, as .data, .set_() and torch.autograd.grad do",
        "write detach() for .data, make a new tensor instead of writing through .data, and take no derivatives in the forward",
    ),
    (
        r"tensor attributes? .* (was|were) assigned during export",
        "it sets an attribute to a tensor",
        "make it in __init__ and register it as a buffer, or return it",
    ),
)
#: Files of torch on the stack of an error from torch.func.
_TRANSFORMS = {("_functorch", file) for file in ("apis.py", "eager_transforms.py", "vmap.py")}
#: Folders whose functions may take the model as their first argument but are not part of it.
_NOT_THE_MODEL = (Path(torch.__file__).parent, Path(__file__).parent)
_OTHER_HINT = "a part of it may be captured all the same: pass submodules=('backbone', ...)"


def explain(error: Exception, model: nn.Module) -> QPassError:
    """Returns an error that names the innermost running module, its source line and the remedy."""
    where, message = _where(error, model), first_line(error)
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    said = re.sub(r"https?://\S+", "", message)  # torch's advice on outputs links to functorch
    if "functorch" in said or any(Path(file).parts[-2:] in _TRANSFORMS for file in frames):
        return UnsupportedError(
            "a transform of torch.func, such as vmap or grad",
            where=where,
            expected="tensors",
            hint="write the function for a whole batch, and derivatives out as formulas",
        )
    for pattern, what, hint in _KINDS:
        if re.search(pattern, str(error)):
            return TraceError(f"torch.export cannot capture the model: {what} ({message})", where=where, hint=hint)
    return TraceError(f"torch.export cannot capture the model: {message}", where=where, hint=_OTHER_HINT)


def _is_ours(file: str) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in _NOT_THE_MODEL)


def _where(error: Exception, model: nn.Module) -> str:
    paths = {id(module): path for path, module in model.named_modules()}
    where = type(model).__name__
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(owner, nn.Module) and id(owner) in paths and not _is_ours(code.co_filename):
            path = paths[id(owner)] or "(itself)"
            where = f"{type(model).__name__}, module {path}, {Path(code.co_filename).name}:{line}"
    return where
