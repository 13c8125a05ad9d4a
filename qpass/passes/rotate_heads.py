"""canonical -> canonical: rotates each attention head's channels to even out their ranges.

Papers: QuaRot (https://arxiv.org/abs/2404.00456, section 4: a rotation that the next product
absorbs is free). The two sides of a product are balanced as in cross-layer equalization
(https://arxiv.org/abs/1906.04721, section 4.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from qpass.graph.edit import calls, input_node, module_path, shape_of
from qpass.graph.facts import facts_of, update_facts
from qpass.passes.analysis.channels import channels_from, channels_into
from qpass.passes.analysis.layer_weights import LayerWeights
from qpass.passes.annotate import MATMULS, is_softmax, source_of
from qpass.passes.base import Pass


class RotateHeads(Pass):
    """Rotates q and k, and v, of each head; adjacent weights absorb the inverse.

    With R orthonormal and b a number per head, q' = b q R, k' = k R / b, v' = b v R, and the
    projection absorbs the inverse, W' = W R / b. Everything is folded into weights, and the network's
    function is unchanged. R is the orthonormal cosine transform, which spreads outlier channels over
    the whole head. b equalizes the energy of q and k, and that of v across heads. Both come from
    weight norms, so no data is needed.

    Skips heads whose q, k or v is more than moved or scaled after its Linear (rotary embeddings,
    normalized queries, heads that share keys), and heads whose output is not read by one Linear alone.
    The report lists them.
    """

    takes, gives = "canonical", "canonical"
    keeps_function = True

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Changes weights and the constants that hold them."""
        if facts_of(graph_module).rotated_heads:
            return False
        weights = LayerWeights(graph_module)
        left_alone = list(facts_of(graph_module).unrotated)
        for product in calls(graph_module, *MATMULS):
            rotate = _rotate_values if is_softmax(source_of(input_node(product, 0))) else _rotate_queries_and_keys
            if reason := rotate(product, _Heads(weights)):
                left_alone.append(("heads", module_path(product), reason))
        update_facts(graph_module, rotated_heads=True, unrotated=tuple(left_alone))
        return weights.write("rotated")


class _Heads:
    """Applies head rotations to the weights of the adjacent Linears."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights

    def read(self, *linears: fx.Node) -> bool:
        """Reads weights and biases; returns whether they are constants."""
        return all(self._weights.read(linear) for linear in linears)

    def energy(self, linear: fx.Node, heads: Tensor) -> Tensor:
        """Returns the squared norm of the weights and biases that compute each head: (heads,)."""
        weight, bias = self._weights[linear]
        return (weight.square().sum(1) + bias.square())[heads].sum(1)

    def turn_outputs(self, linear: fx.Node, heads: Tensor, factors: Tensor) -> None:
        """Rotates each head's outputs and scales them: heads (heads, channels), factors (heads,)."""
        weight, bias = self._weights[linear]
        rotation = cosine_transform(heads.shape[1]).to(weight)
        for channels, factor in zip(heads, factors, strict=True):
            weight[channels] = factor * rotation.T @ weight[channels]
            bias[channels] = factor * rotation.T @ bias[channels]

    def take_back(self, linear: fx.Node, heads: Tensor, factors: Tensor) -> None:
        """Absorbs the inverse rotation and scale into a Linear that reads the heads."""
        weight, _ = self._weights[linear]
        rotation = cosine_transform(heads.shape[1]).to(weight)
        for channels, factor in zip(heads, factors, strict=True):
            weight[:, channels] = weight[:, channels] @ rotation / factor


def _rotate_queries_and_keys(product: fx.Node, weights: _Heads) -> str:
    """Rotates q and k; returns the reason if they stay unchanged, else ""."""
    queries, keys = channels_from(product.args[0]), channels_from(product.args[1])  # type: ignore[arg-type]
    if queries is None or keys is None:
        return "q or k is not just moved and scaled after its Linear, or heads share it"
    heads = _heads(queries[1], keys[1].transpose(-1, -2))
    if heads is None or not weights.read(queries[0], keys[0]):
        return "heads or tokens share channels of q or k"
    balance = (weights.energy(keys[0], heads[1]) / weights.energy(queries[0], heads[0])) ** 0.25
    if not bool(balance.isfinite().all() and (balance > 0).all()):
        return "a head's q or k is zero"
    weights.turn_outputs(queries[0], heads[0], balance)
    weights.turn_outputs(keys[0], heads[1], 1 / balance)
    return ""


def _rotate_values(product: fx.Node, weights: _Heads) -> str:
    """Rotates v; returns the reason if it stays unchanged, else ""."""
    values = channels_from(product.args[1])  # type: ignore[arg-type]
    if values is None:
        return "v is not just moved and scaled after its Linear, or heads share it"
    heads, shape = _heads(values[1]), shape_of(product)
    if heads is None or shape is None:
        return "heads or tokens share channels of v"
    reader = channels_into(product, values[1][..., :1, :].expand(shape))
    if reader is None or not weights.read(values[0], reader[0]):
        return "the heads' output is not read by one Linear alone"
    energy = weights.energy(values[0], heads[0])
    balance = (energy.mean() / energy).sqrt()
    position = {int(channel): index for index, channel in enumerate(reader[1])}
    if not bool(balance.isfinite().all()):
        return "a head's v is zero"
    weights.turn_outputs(values[0], heads[0], balance)
    inputs = torch.tensor([[position[int(channel)] for channel in channels] for channels in heads[0]])
    weights.take_back(reader[0], inputs, balance)
    return ""


def _heads(*factors: Tensor) -> list[Tensor] | None:
    """Returns each factor's channels by head, (heads, channels); None if tokens or heads share channels.

    Args:
        factors: Channel numbers, (..., tokens, channels); the factors of one product.
    """
    if any(not torch.equal(factor, factor[..., :1, :].expand_as(factor)) for factor in factors):
        return None
    size = factors[0].shape[-1]
    pairs = torch.cat([factor[..., 0, :].reshape(-1, size) for factor in factors], 1).unique(dim=0)
    heads = list(pairs.split(size, 1))
    return None if any(len(head.unique()) != head.numel() for head in heads) else heads


def cosine_transform(size: int) -> Tensor:
    """Returns the orthonormal DCT-II (size, size), float64. Unlike Hadamard's, it exists at any size."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * torch.outer(index + 0.5, index)) * math.sqrt(2 / size)
    matrix[:, 0] /= math.sqrt(2)
    return matrix
