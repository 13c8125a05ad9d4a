"""What is known of a graph beside its nodes, in one typed record that travels with the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from qpass.config import QuantConfig

#: Where torch.fx keeps it: copies of a graph copy it too.
_KEY = "qpass"


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What qpass knows of a graph; ``update_facts`` alone changes it.

    Attributes:
        stage: What the passes so far have made of the graph: see ``Pass``.
        example: Positional and keyword arguments of an example call.
        names: Names of the input tensors.
        dims: For each input tensor its sizes, numbers or symbols (see ``qpass.graph.signature.input_dims``).
        dynamic_batch: Whether the graph takes any number of rows.
        bound_sizes: Whether only some of the sizes that ``dims`` leaves open will do.
        open_sizes: For each input tensor, the dims beside the batch that were asked to be open and are.
        layout: For each input tensor the symbol of its rows while calibration cuts them; None takes it from ``dims``.
        sizes: Sizes behind dim 0 of all tensors together that a part holds for; empty for all that ``dims`` allows.
        free: Names of inputs that are no tensors and that a part does not use.
        is_part: Whether the graph is a part of a model.
        config: The recipe.
        source_check: How near the float graph is to the caller's model (a ``SourceCheck``); None before it was compared.
        rotated_heads: Whether the channels of attention heads have been rotated.
        rotated_residual: Whether the channels of the residual stream have been rotated.
        unrotated: ("heads" or "residual stream", module path, reason) of what was not rotated.
        allocation: The bit widths that a budget gave; None before it was spent.
        compensated: Whether weights have been corrected for quantization.
        reconstruction: Records of learned blocks.
        report: The report's figures (a ``QuantReport``); None until the graph is frozen.
    """

    stage: str = ""
    example: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    names: Sequence[str] = ()
    dims: list[tuple[int | str, ...]] = dataclasses.field(default_factory=list)
    dynamic_batch: bool = False
    bound_sizes: bool = False
    open_sizes: Sequence[tuple[int, ...]] = ()
    layout: Sequence[str | None] | None = None
    sizes: Sequence[Any] = ()
    free: Sequence[str] = ()
    is_part: bool = False
    config: QuantConfig | None = None
    source_check: Any = None
    rotated_heads: bool = False
    rotated_residual: bool = False
    unrotated: tuple[tuple[str, str, str], ...] = ()
    allocation: tuple[Any, ...] | None = None
    compensated: bool = False
    reconstruction: tuple[Any, ...] = ()
    report: Any = None


def facts_of(graph_module: fx.GraphModule) -> GraphFacts:
    """Returns what is known of a graph; a graph that qpass did not make has the defaults."""
    facts: GraphFacts = graph_module.meta.get(_KEY) or GraphFacts()
    return facts


def recipe_of(graph_module: fx.GraphModule) -> QuantConfig:
    """Returns the recipe of a graph that has been annotated with one."""
    config = facts_of(graph_module).config
    assert config is not None, "Annotate notes the recipe"
    return config


def update_facts(graph_module: fx.GraphModule, **changes: Any) -> None:
    """Replaces fields of what is known of a graph.

    Raises:
        TypeError: If a field has no such name.
    """
    graph_module.meta[_KEY] = dataclasses.replace(facts_of(graph_module), **changes)
