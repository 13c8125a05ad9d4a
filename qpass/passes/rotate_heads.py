"""canonical -> canonical: turns the channels of every attention head, so that none needs a wider range than the others.

Papers: QuaRot (https://arxiv.org/abs/2404.00456, section 4: a rotation that the next product takes back costs nothing); the
balance of the two sides of a product is that of cross-layer equalization (https://arxiv.org/abs/1906.04721, section 4.1).
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
    """Turns q and k, and v, of each head; weights around take it back.

    With R orthonormal and b a number for each head, q' = b q R, k' = k R / b, v' = b v R, and the projection takes R / b back.
    It goes into the weights, and the network computes what it computed. R is the orthonormal cosine transform, which spreads
    what single channels hold over all of a head. b gives q and k the same energy, and the values of all heads the same, both by
    the norms of their weights: no data are needed. Left alone are heads whose q, k or v is more than moved or scaled behind its
    Linear (rotary embeddings, normalised queries, heads that share keys), or whose output no Linear reads alone; the report
    lists them.
    """

    takes, gives = "canonical", "canonical"
    keeps_function = True

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Weights change, and the constants that hold them."""
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
    """What turning heads does to the weights of the Linears around them."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights

    def read(self, *linears: fx.Node) -> bool:
        """Reads weights and biases; returns whether they are constants."""
        return all(self._weights.read(linear) for linear in linears)

    def energy(self, linear: fx.Node, heads: Tensor) -> Tensor:
        """Returns the squared norm of what computes the channels of each head: (heads,)."""
        weight, bias = self._weights[linear]
        return (weight.square().sum(1) + bias.square())[heads].sum(1)

    def turn_outputs(self, linear: fx.Node, heads: Tensor, factors: Tensor) -> None:
        """Turns the outputs of each head and multiplies them by its factor: heads (heads, channels), factors (heads,)."""
        weight, bias = self._weights[linear]
        rotation = cosine_transform(heads.shape[1]).to(weight)
        for channels, factor in zip(heads, factors, strict=True):
            weight[channels] = factor * rotation.T @ weight[channels]
            bias[channels] = factor * rotation.T @ bias[channels]

    def take_back(self, linear: fx.Node, heads: Tensor, factors: Tensor) -> None:
        """Lets a Linear take inputs that were turned and multiplied so, and give what it gave."""
        weight, _ = self._weights[linear]
        rotation = cosine_transform(heads.shape[1]).to(weight)
        for channels, factor in zip(heads, factors, strict=True):
            weight[:, channels] = weight[:, channels] @ rotation / factor


def _rotate_queries_and_keys(product: fx.Node, weights: _Heads) -> str:
    """Returns why it left them alone, or "" where it did not."""
    queries, keys = channels_from(product.args[0]), channels_from(product.args[1])  # type: ignore[arg-type]
    if queries is None or keys is None:
        return "q or k is more than moved and scaled behind its Linear, or shared by heads"
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
    """Returns why it left them alone, or "" where it did not."""
    values = channels_from(product.args[1])  # type: ignore[arg-type]
    if values is None:
        return "v is more than moved and scaled behind its Linear, or shared by heads"
    heads, shape = _heads(values[1]), shape_of(product)
    if heads is None or shape is None:
        return "heads or tokens share channels of v"
    reader = channels_into(product, values[1][..., :1, :].expand(shape))
    if reader is None or not weights.read(values[0], reader[0]):
        return "no Linear alone reads what the heads give"
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
    """Returns the channels of each head in each factor, (heads, channels of each); None where tokens or heads share channels.

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
    """Returns the orthonormal DCT-II, in float64: (size, size). It exists at any size, where a Hadamard matrix does not."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * torch.outer(index + 0.5, index)) * math.sqrt(2 / size)
    matrix[:, 0] /= math.sqrt(2)
    return matrix
