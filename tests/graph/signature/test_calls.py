"""What a graph is called with: by place or by name, nested in any way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qpass.errors import UnsupportedError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import flat_inputs

#: A structure of inputs: each leaf is the width of a tensor.
STRUCTURES = st.recursive(
    st.integers(1, 4),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("pqRs"), inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


def leaves_of(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [leaf for item in items for leaf in leaves_of(item)]  # type: ignore[attr-defined]


class Summed(nn.Module):
    """Counts every tensor by its place, so that none can stand for another."""

    def forward(self, first: object, *args: object, named: object, **kwargs: object) -> Tensor:
        tensors = leaves_of([first, *args, named, *(kwargs[name] for name in sorted(kwargs))])
        return sum(place * tensor.sum(1).cumsum(0)[-1:] for place, tensor in enumerate(tensors, 1))  # type: ignore[return-value]


def tensors_like(structure: object, rows: int, generator: torch.Generator) -> object:
    if isinstance(structure, int):
        return torch.randn(rows, structure, generator=generator)
    if isinstance(structure, dict):
        return {key: tensors_like(value, rows, generator) for key, value in structure.items()}
    return [tensors_like(value, rows, generator) for value in structure]  # type: ignore[attr-defined]


def turned(value: object) -> object:
    """Returns the same inputs with the keys of dicts in reverse order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    st.lists(STRUCTURES, min_size=1, max_size=3), STRUCTURES, st.dictionaries(st.sampled_from("uVw"), STRUCTURES, max_size=2)
)
def test_a_graph_takes_inputs_of_any_structure(positional: list[object], named: object, more: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(0)
    call = lambda rows: (  # noqa: E731
        tuple(tensors_like(one, rows, generator) for one in positional),
        {name: tensors_like(one, rows, generator) for name, one in {"named": named, **more}.items()},
    )
    model = Summed()
    graph = trace(model, *call(3))
    args, kwargs = call(4)
    torch.testing.assert_close(graph(*args, **kwargs), model(*args, **kwargs))
    flat = flat_inputs(graph, args, turned(kwargs))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(flat, flat_inputs(graph, args, kwargs), strict=True))
    torch.testing.assert_close(graph.graph.owning_module(*args, **turned(kwargs)), model(*args, **kwargs))  # type: ignore[arg-type]


class Pair(nn.Module):
    def forward(self, xs: list[Tensor], named: dict[str, Tensor]) -> Tensor:
        return xs[0] + xs[1] + named["a"]


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([X, X],), {}, r"no input \['named'\]; expected the inputs that it was traced with, \['xs', 'named'\]"),
        (([X, X],), {"named": {"a": X}, "mask": X}, r"an input \['mask'\]"),
        (([X, X, X], {"a": X}), {}, r"an input holds the entries \[0, 1, 2\]; expected \[0, 1\]"),
        (([X, X], {"a": X, "b": X}), {}, r"an input holds the entries \['a', 'b'\]; expected \['a'\]"),
        (([X, X], [X]), {}, r"an input is a list; expected a dict"),
    ],
)
def test_what_is_missing_or_too_much_is_named(args: tuple[object, ...], kwargs: dict[str, object], message: str) -> None:
    graph = trace(Pair(), ([X, X],), {"named": {"a": X}})
    with pytest.raises(UnsupportedError, match=message):
        flat_inputs(graph, args, kwargs)
