"""What qpass knows about a graph beyond its nodes: one typed record that travels with the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from qpass.config import QuantConfig
from qpass.graph.rewrite import NearMatch

#: Key in ``GraphModule.meta``, which copies of a graph keep.
_KEY = "qpass"


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What qpass knows about a graph. Only ``update_facts`` changes it.

    Attributes:
        stage: The stage that the passes have reached: see ``Pass``.
        example: Positional and keyword arguments of an example call.
        names: Names of the input tensors.
        dims: Sizes of each input tensor, as numbers or symbols (see
            ``qpass.graph.signature.input_dims``).
        dynamic_batch: Whether the graph accepts any number of rows.
        bound_sizes: Whether the graph accepts only some values of the sizes that ``dims`` leaves open.
        open_sizes: For each input tensor, the dims other than the batch dim that were requested open
            and are open.
        layout: Symbol of dim 0 for each input tensor while calibration splits rows; None takes it
            from ``dims``.
        sizes: Combinations of the sizes after dim 0 of all tensors that a part accepts; empty for all
            that ``dims`` allows.
        free: Names of non-tensor inputs that a part does not use.
        is_part: Whether the graph is a part of a model.
        config: The recipe.
        source_check: How closely the float graph matches the caller's model (a ``SourceCheck``); None
            until they are compared.
        rotated_heads: Whether the channels of attention heads have been rotated.
        rotated_residual: Whether the channels of the residual stream have been rotated.
        unrotated: What was not rotated, as ("heads" or "residual stream", module path, reason).
        channel_strengths: How far the channels of each activation function's output were evened out,
            as (module path, strength); empty until that is decided.
        allocation: Bit widths chosen for a budget; None until they are chosen.
        declined: The nodes that rewrite rules declined.
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
    channel_strengths: tuple[tuple[str, float], ...] = ()
    allocation: tuple[Any, ...] | None = None
    declined: tuple[NearMatch, ...] = ()
    compensated: bool = False
    reconstruction: tuple[Any, ...] = ()
    report: Any = None


def facts_of(graph_module: fx.GraphModule) -> GraphFacts:
    """Returns a graph's facts; a graph that qpass did not make has the defaults."""
    facts: GraphFacts = graph_module.meta.get(_KEY) or GraphFacts()
    return facts


def recipe_of(graph_module: fx.GraphModule) -> QuantConfig:
    """Returns the recipe that a graph was annotated with."""
    config = facts_of(graph_module).config
    assert config is not None, "Annotate notes the recipe"
    return config


def update_facts(graph_module: fx.GraphModule, **changes: Any) -> None:
    """Replaces fields of a graph's facts.

    Raises:
        TypeError: If there is no field of that name.
    """
    graph_module.meta[_KEY] = dataclasses.replace(facts_of(graph_module), **changes)
