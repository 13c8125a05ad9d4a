"""Random programs that make views of a tensor and of one another, write into them, and read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn


class Call(nn.Module):
    """A module around a function, with buffers of its own."""

    def __init__(self, function: Callable[..., object], **buffers: Tensor | None) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> object:
        """Calls the function with itself and the inputs."""
        return self.function(self, *inputs)


#: Each gives a view of a tensor with at least two dims; sizes of dims behind the batch are known to be 2 or more at the start.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "[..., 1:]": lambda t: t[..., 1:],
    "[..., :2]": lambda t: t[..., :2],
    "[:, 1:]": lambda t: t[:, 1:],
    "[:, -1]": lambda t: t[:, -1],
    "[..., 0]": lambda t: t[..., 0],
    "[:, ::2]": lambda t: t[:, ::2],
    "transpose": lambda t: t.transpose(1, -1),
    "unsqueeze": lambda t: t.unsqueeze(1),
    "flatten": lambda t: t.flatten(1) if t.is_contiguous() else t,
    "chunk": lambda t: t.chunk(2, -1)[0],
    "unbind": lambda t: t.unbind(1)[0],
    "detach": lambda t: t.detach(),
}
WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "mul_": lambda t, _: t.mul_(1.5),
    "add_ a mean": lambda t, other: t.add_(other.mean()),
    "copy_ a number": lambda t, other: t.copy_(other.amax()),
    "fill_": lambda t, _: t.fill_(0.25),
    "relu_": lambda t, _: t.relu_(),
    "masked_fill_": lambda t, other: t.masked_fill_(t > other.mean(), -1.0),
    "+=": lambda t, _: t.__iadd__(t),
}


@dataclass(frozen=True)
class Program:
    """Steps: ("view", which tensor, which view), ("write", into which, which write, from which) or ("read", which)."""

    steps: tuple[tuple[str | int, ...], ...]

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the steps on a copy of ``x`` and returns everything that was read, and the tensor at the end."""
        tensors, read = [x * 1], []
        for kind, index, *what in self.steps:
            tensor = tensors[int(index) % len(tensors)]
            if kind == "view" and tensor.dim() > 1 and min(tensor.shape[1:]) > 1:
                tensors.append(VIEWS[str(what[0])](tensor))
            elif kind == "write":
                WRITES[str(what[0])](tensor, tensors[int(what[1]) % len(tensors)])
            elif kind == "read":
                read.append(torch.sin(tensor))
        return (*read, *(tensor * 1 for tensor in tensors))


def programs() -> st.SearchStrategy[Program]:
    """Draws programs of up to ten steps."""
    index = st.integers(0, 5)
    step = st.one_of(
        st.tuples(st.just("view"), index, st.sampled_from(sorted(VIEWS))),
        st.tuples(st.just("write"), index, st.sampled_from(sorted(WRITES)), index),
        st.tuples(st.just("read"), index),
    )
    return st.lists(step, min_size=2, max_size=10).map(lambda steps: Program(tuple(steps)))
