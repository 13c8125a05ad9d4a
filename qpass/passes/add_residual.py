"""fitted -> fitted: a low-rank branch beside a Linear compensates weight rounding, also at inference.

The form of LQER (https://arxiv.org/abs/2402.02446), in integers; AIQViT
(https://arxiv.org/abs/2502.04628) merges its factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, fx, nn

from qpass.data import ModelInputs
from qpass.graph.edit import (
    add_module,
    aten,
    called_module,
    calls,
    copy_origin,
    copy_result,
    get_plan,
    is_call,
    set_result,
    shape_of,
)
from qpass.nn import QuantizedLinear, ResidualFactor
from qpass.passes.analysis.side_by_side import SideBySide
from qpass.passes.base import Pass
from qpass.passes.plan import LayerPlan
from qpass.progress import track
from qpass.quantizers import Quantizer, Uniform
from qpass.runtime.storage import Storage

#: Zero point of the branch's 8-bit codes, and the range in which the input's is used instead.
_MIDDLE, _NEAR_MIDDLE = 128, range(64, 193)
#: Damping of the Gram matrix's diagonal, as a share of its mean.
_DAMPING = 1e-4


class AddResidual(Pass):
    """Adds a low-rank branch to the Linears whose weight spec has a ``residual_rank``.

    y = x̂ Q(W)ᵀ + bias becomes y = x̂ Q(W)ᵀ + bias + t̂ B̂ᵀ with t = x̂ Âᵀ.

    B A is the best approximation of W - Q(W) of that rank in the metric of the inputs. With S the
    Cholesky factor of their Gram matrix, it is the truncated SVD of (W - Q(W)) S, with A multiplied by
    S^-1 from the right. Everything is 8-bit integers. Scales and zero points are chosen so that both
    products can be one integer product with a larger inner dim, ``[x, t] [m Q(W), B̂]ᵀ``. t has the
    zero point of x, and B̂ has the scale s_x s_W / (m s_t) for each output. m is a power of two with
    which the codes of m Q(W) still fit.

    Args:
        batches: Model inputs that the Gram matrices are computed from.
        storage: Where values are kept between nodes; None keeps them in memory.
        show_progress: Show a progress bar.
    """

    takes, gives = "fitted", "fitted"

    def __init__(self, batches: Sequence[ModelInputs], *, storage: Storage | None = None, show_progress: bool = False) -> None:
        self.batches, self.storage, self.show_progress = batches, storage, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Each branch is fitted on the outputs of earlier ones."""
        linears = [node for node in graph_module.graph.nodes if self._wants_residual(graph_module, node)]
        if not linears:
            return False
        runs = SideBySide(graph_module, self.batches, storage=self.storage)
        branches: dict[fx.Node, tuple[ResidualFactor, Uniform, ResidualFactor]] = {}
        with torch.no_grad():
            for node in track(list(graph_module.graph.nodes)[:-1], "residual", show=self.show_progress):
                if node in linears:
                    inputs = runs.values(node.args[0])
                    branches[node] = _branch(graph_module, node, inputs)
                    runs.step(node, partial(_add_branch, branches[node], inputs))
                else:
                    runs.step(node)
        for node, branch in branches.items():
            _insert(graph_module, node, branch)
        return True

    @staticmethod
    def _wants_residual(graph_module: fx.GraphModule, node: fx.Node) -> bool:
        plan = get_plan(node)
        if not isinstance(plan, LayerPlan) or node.op != "call_module" or plan.weight is None or not plan.weight.residual_rank:
            return False
        layer = graph_module.get_submodule(str(node.target))
        reads_codes = isinstance(called_module(graph_module, node.args[0]), Uniform)
        return isinstance(layer, QuantizedLinear) and reads_codes and sum_with_residual(graph_module, node) is node


def sum_with_residual(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Returns the sum of a Linear and its branch, or the Linear itself if it has none."""
    for user in node.users:
        if is_call(user, aten.add.Tensor) and isinstance(called_module(graph_module, user.args[1]), ResidualFactor):
            return user
    return node


def _branch(
    graph_module: fx.GraphModule, node: fx.Node, inputs: Sequence[Tensor]
) -> tuple[ResidualFactor, Uniform, ResidualFactor]:
    layer, reads = graph_module.get_submodule(str(node.target)), called_module(graph_module, node.args[0])
    assert isinstance(layer, QuantizedLinear)
    assert isinstance(reads, Uniform)
    assert layer.weight is not None, "a frozen layer has no float weight"
    error = layer.weight.double() - layer.quantized_weight().double()
    a, b = low_rank(error, gram(inputs), get_plan(node).weight.residual_rank)
    down = ResidualFactor(a.float(), None, Uniform(8, symmetric=True, axis=0, percentiles=(1.0,)).to(a.device).fit(a.float()))
    t = torch.cat([down(x).reshape(-1) for x in inputs])
    quantizer = Uniform(8).to(t.device).set_parameters(*_scale_around_middle(t, reads))
    up = ResidualFactor(b.float(), None, Uniform(8, symmetric=True, axis=0).to(t.device))
    _tie(up, reads, layer, quantizer)
    return down.requires_grad_(False), quantizer, up.requires_grad_(False)


def _add_branch(
    branch: tuple[ResidualFactor, Uniform, ResidualFactor], inputs: Sequence[Tensor], index: int, output: Tensor
) -> Tensor:
    down, quantizer, up = branch
    sum_: Tensor = output + up(quantizer(down(inputs[index])))
    return sum_


def tie_residual_scales(graph_module: fx.GraphModule) -> None:
    """Ties the scales of branches again after the scales of the tensors they read have changed."""
    for total in calls(graph_module, aten.add.Tensor):
        up = called_module(graph_module, total.args[1])
        if isinstance(up, ResidualFactor):
            linear, quantizer = total.args[0], total.args[1].args[0]  # type: ignore[union-attr]
            _tie(up, *(called_module(graph_module, node) for node in (linear.args[0], linear, quantizer)))  # type: ignore[union-attr]


def _tie(up: ResidualFactor, reads: nn.Module | None, layer: nn.Module | None, quantizer: nn.Module | None) -> None:
    """Sets the scale of B̂ to s_x s_W / (m s_t)."""
    assert isinstance(reads, Uniform)
    assert isinstance(layer, QuantizedLinear)
    assert isinstance(layer.quantizer, Uniform)
    assert isinstance(quantizer, Uniform)
    assert isinstance(up.quantizer, Uniform)
    scale = reads.scale * layer.quantizer.scale / (2 ** (7 - layer.quantizer.bits) * quantizer.scale)
    up.quantizer.set_parameters(scale, torch.zeros_like(scale))


def gram(inputs: Sequence[Tensor]) -> Tensor:
    """Returns the damped mean of x xᵀ over all vectors x of the last dim, in float64: (in, in)."""
    width = inputs[0].shape[-1]
    total = torch.zeros(width, width, dtype=torch.float64, device=inputs[0].device)
    for x in inputs:
        rows = x.reshape(-1, width).double()
        total += rows.T @ rows
    total *= width / sum(x.numel() for x in inputs)
    damping = _DAMPING * total.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    return total + damping * torch.eye(len(total), dtype=total.dtype, device=total.device)


def low_rank(error: Tensor, metric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns A (rank, in) and B (out, rank) that minimize tr((E - B A) G (E - B A)ᵀ); A G Aᵀ = I.

    Args:
        error: E, (out, in).
        metric: G, (in, in), positive definite.
        rank: Capped at the smaller side of E.
    """
    factor = torch.linalg.cholesky(metric)
    u, s, vt = torch.linalg.svd(error @ factor, full_matrices=False)
    a = torch.linalg.solve_triangular(factor, vt[:rank], upper=False, left=False)
    return a, u[:, :rank] * s[:rank]


def _scale_around_middle(t: Tensor, reads: Uniform) -> tuple[Tensor, Tensor]:
    """Returns scale and zero point of t; shifts the codes of its input so that both share a zero point."""
    if reads.bits < 8:
        reads.shift_codes(_MIDDLE)
    zero = int(reads.zero_point.item())
    zero = zero if zero in _NEAR_MIDDLE else _MIDDLE
    symmetric = Uniform(8, symmetric=True).to(t.device).fit(t)
    return symmetric.scale * 128 / min(zero, 256 - zero), torch.tensor(float(zero), device=t.device)


def _insert(graph_module: fx.GraphModule, node: fx.Node, branch: tuple[ResidualFactor, Quantizer, ResidualFactor]) -> None:
    readers, value = list(node.users), node.args[0]
    after, leading = node, (shape_of(node) or ())[:-1]
    down, codes, up = branch
    (rank, _), (out, _) = down.weight_shape, up.weight_shape
    for name, module, width in (("down", down, rank), ("codes", codes, rank), ("up", up, out)):
        target = add_module(graph_module, f"{node.target}_residual_{name}", module)
        with graph_module.graph.inserting_after(after):
            after = graph_module.graph.call_module(target, (value,))
        copy_origin(node, after)
        set_result(after, torch.empty(*leading, width, device="meta"))
        value = after
    with graph_module.graph.inserting_after(after):
        total = graph_module.graph.call_function(aten.add.Tensor, (node, after))
    copy_origin(node, total)
    copy_result(node, total)
    for reader in readers:
        reader.replace_input_with(node, total)
