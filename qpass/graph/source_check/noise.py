"""Measures the effect of rounding on a graph's outputs by random errors in every operator's result."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

#: Unit roundoff of float32.
ROUNDING = 2.0**-24
#: How much coarser the simulated roundings are. A few draws must expose what many could, such as a
#: different choice by top-k.
COARSER = 32


class NoisyRun(fx.Interpreter):
    """Runs a graph with random relative errors of up to ``COARSER`` roundings in float inputs and results.

    Args:
        graph_module: The graph.
        seed: Seed of the errors.
        exact: Nodes whose results stay as they are, such as masks: an error in ``1 - mask`` times -1e9
            would mask everything, or nothing.
    """

    def __init__(self, graph_module: fx.GraphModule, seed: int, exact: Collection[fx.Node] = ()) -> None:
        super().__init__(graph_module)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = seed
        self._exact = exact

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and rounds its result."""
        result = super().run_node(n)
        if n.op in ("get_attr", "output") or n in self._exact:
            return result
        return pytree.tree_map(lambda leaf: self._round(leaf) if _is_float(leaf) else leaf, result)

    def _round(self, value: Tensor) -> Tensor:
        generator = self._generators.get(value.device)
        if generator is None:
            generator = self._generators[value.device] = torch.Generator(value.device).manual_seed(self._seed)
        errors = torch.rand(value.shape, generator=generator, device=value.device).mul_(2).sub_(1)
        rounded = value * errors.mul_(COARSER * ROUNDING).add_(1).to(value.dtype)
        return torch.where(rounded.isfinite(), rounded, value)  # a mask's -3.4e38 stays finite


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
