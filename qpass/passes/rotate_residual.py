"""canonical -> canonical: rotates the channels of the residual stream, so that none is an outlier.

Papers: SliceGPT (https://arxiv.org/abs/2401.15024, section 3: what a norm commutes with),
QuaRot (https://arxiv.org/abs/2404.00456).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qpass.graph.edit import add_constant, argument, aten, calls, get_constant, module_path
from qpass.graph.facts import facts_of, update_facts
from qpass.passes.analysis.layer_weights import LayerWeights
from qpass.passes.analysis.residual_stream import NotAStream, ResidualStream
from qpass.passes.base import Pass
from qpass.passes.constants import constant_value
from qpass.passes.rotate_heads import cosine_transform


class RotateResidual(Pass):
    """Rotates residual streams read only by LayerNorms and Linears; adjacent weights absorb the inverse.

    A LayerNorm without affine parameters commutes with every orthonormal R that keeps the vector of
    ones fixed: means and norms are preserved. It need not become an RMSNorm first. γ and β move into
    the Linears that follow, W' = W diag(γ) Rᵀ and b' = b + W β. Layers that write into the stream are
    rotated, W' = R W and b' = R b; so are constants. The network's function is unchanged.

    A stream stays unchanged if anything else reads or writes it (a LayerNorm that writes, as in
    post-norm transformers, or the model's output). The report gives the reason.

    Args:
        seed: Random seed of the rotation; any seed works.
    """

    takes, gives = "canonical", "canonical"
    keeps_function = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Changes weights and the constants that hold them."""
        if facts_of(graph_module).rotated_residual:
            return False
        weights = LayerWeights(graph_module)
        streams: list[ResidualStream] = []
        for norm in calls(graph_module, aten.layer_norm.default):
            if not any(norm in stream.norms for stream in streams):
                streams.append(ResidualStream(graph_module, norm, weights))
        left_alone = list(facts_of(graph_module).unrotated)
        for stream in streams:
            try:
                stream.check()
            except NotAStream as reason:
                left_alone.append(("residual stream", module_path(stream.first), str(reason)))
            else:
                _rotate(graph_module, stream, weights, self.seed)
        update_facts(graph_module, rotated_residual=True, unrotated=tuple(left_alone))
        return weights.write("rotated")


def _rotate(graph_module: fx.GraphModule, stream: ResidualStream, weights: LayerWeights, seed: int) -> None:
    rotation = rotation_around_ones(stream.width, seed)
    for norm, readers in stream.norms.items():
        gamma, beta = (get_constant(graph_module, argument(norm, index, name)) for index, name in ((2, "weight"), (3, "bias")))
        for reader in readers:
            weight, bias = weights[reader]
            if beta is not None:
                bias += weight @ beta.double()
            if gamma is not None:
                weight *= gamma.double()
        plain = [torch.ones(norm.args[1]), torch.zeros(norm.args[1])]  # type: ignore[arg-type]
        new = [add_constant(graph_module, f"{norm.name}_plain", value, norm) for value in plain]
        norm.args = (*norm.args[:2], *new, *norm.args[4:])
        norm.kwargs = {key: value for key, value in norm.kwargs.items() if key not in ("weight", "bias")}
    for reader in stream.readers:
        weight, _ = weights[reader]
        weight.copy_(_turned(weight, rotation))
    for writer in stream.writers:
        weight, bias = weights[writer]
        weight.copy_(_turned(weight.T, rotation).T)
        bias.copy_(_turned(bias, rotation))
    for constant, users in stream.constants.items():
        value = constant_value(graph_module, constant)
        assert value is not None
        new_value = _turned(value.double(), rotation).to(value.dtype)
        turned = add_constant(graph_module, f"{constant.name}_rotated", new_value, constant)
        for user in users:
            user.replace_input_with(constant, turned)


def _turned(rows: Tensor, rotation: Tensor) -> Tensor:
    """Returns R y for each group of channels y. The last dim is a multiple of the group size."""
    return (rows.unflatten(-1, (-1, len(rotation))) @ rotation.T.to(rows.device)).flatten(-2)


def rotation_around_ones(size: int, seed: int = 0) -> Tensor:
    """Returns a seeded random orthonormal matrix that keeps the vector of ones fixed.

    It is float64, (size, size). The first column of the cosine transform is the direction of that
    vector; the other columns may be rotated freely.
    """
    generator = torch.Generator().manual_seed(seed)
    others, _ = torch.linalg.qr(torch.randn(size - 1, size - 1, generator=generator, dtype=torch.float64))
    basis = cosine_transform(size)
    return basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), others) @ basis.T
