"""Builds quantizers from specs, fitted to calibration statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx

from qpass.config import QuantSpec
from qpass.config.options import FitCriterion, QuantizerName
from qpass.graph.edit import aten, device_of, get_constant, input_node, is_call
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.annotate import is_softmax
from qpass.quantizers import Codebook, Quantizer, Uniform, build_quantizer


def tensor_quantizer(
    graph_module: fx.GraphModule, statistics: Statistics, point: fx.Node, spec: QuantSpec, signed: bool
) -> Quantizer:
    """Returns the per-tensor quantizer of a node's output."""
    product = statistics.products.get(point) if spec.criterion == FitCriterion.OUTPUT else None
    criterion = None if product is None else product.criterion()
    # Such a tensor is bounded from below. If its highest code is 255, saturation replaces a Clip.
    first_code = 256 - 2**spec.bits if is_softmax(point) or _is_gelu(graph_module, point) else 0
    quantizer = build_quantizer(spec, signed=signed, first_code=first_code)
    return quantizer.fit(*statistics.tensors[point].samples(), criterion=criterion).to(device_of(graph_module))


def _is_gelu(graph_module: fx.GraphModule, point: fx.Node) -> bool:
    """Returns whether a tensor is a GELU's output, possibly times positive constants."""
    if is_call(point, aten.mul.Tensor):  # a GELU that gates another tensor has no lower bound
        factor = get_constant(graph_module, point.args[1])
        return factor is not None and bool((factor > 0).all()) and _is_gelu(graph_module, input_node(point, 0))
    return is_call(point, aten.gelu.default)


def channel_quantizer(
    graph_module: fx.GraphModule, statistics: Statistics, norm: fx.Node, spec: QuantSpec
) -> Uniform | Codebook:
    """Returns the quantizer of a LayerNorm's output, with a scale and zero point per channel."""
    kind = Codebook if spec.quantizer == QuantizerName.CODEBOOK and spec.bits < 8 else Uniform
    quantizer = kind(spec.bits, axis=-1, percentiles=spec.percentiles, free_zero_point=True)
    return quantizer.fit(*statistics.channels[norm].samples()).to(device_of(graph_module))


def fit_again(quantizer: Quantizer, fit: Callable[[Quantizer], object]) -> bool:
    """Refits a quantizer in place and returns whether any value changed. If none did, writes nothing."""
    candidate = copy.deepcopy(quantizer)
    fit(candidate)
    before, after = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (quantizer, candidate))
    same = before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    if same and quantizer.config == candidate.config:
        return False
    quantizer.__dict__.update(candidate.__dict__)
    return True


def weight_quantizer(weight: Tensor, spec: QuantSpec) -> Quantizer:
    """Returns the quantizer of a weight (output channels first), with a scale per output channel."""
    return build_quantizer(spec, signed=True, axis=0).to(weight.device).fit(weight.flatten(1))
