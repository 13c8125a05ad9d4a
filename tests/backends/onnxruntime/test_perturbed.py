"""Results that are moved by a few roundings: how far, in which direction, and where the run stops."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from qpass.backends.onnxruntime.perturbed import Perturbed, behind_quantizers, signed_seeds
from qpass.backends.onnxruntime.tolerance import MOVE
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.quantizers import Quantizer, Uniform


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


def test_a_result_moves_by_a_share_of_itself() -> None:
    """Each factor, and then the product."""
    graph = fx.symbolic_trace(Product())
    x, y = (torch.randn(500, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    graph = trace(Product().eval(), (x, y))
    runs = [Perturbed(graph, 0, sign).run(x, y) for sign in (1.0, -1.0)]
    moves = [((run - x * y) / (x * y) / MOVE).round().abs() for run in runs]
    assert set(torch.cat(moves).tolist()) <= {1.0, 3.0}, "three moves, all in one direction or two against one"
    torch.testing.assert_close(runs[0] - x * y, x * y - runs[1], rtol=0, atol=1e-9)
    assert torch.equal(runs[0], Perturbed(graph, 0, 1.0).run(x, y))
    assert not torch.equal(runs[0], Perturbed(graph, 1, 1.0).run(x, y))


def test_a_function_moves_by_a_share_of_its_argument_too() -> None:
    """erf near one is right to a share of one, and so is a GELU far below zero, which is next to nothing."""
    graph = trace(nn.GELU().eval(), (x := torch.full((100, 1), -6.0),))
    moved = (Perturbed(graph, 0, 1.0).run(x) - nn.functional.gelu(x)).abs()
    assert 0.5 * MOVE < moved.max() < 2 * MOVE, "an argument of 6 counts as 1"


def test_infinite_results_stay() -> None:
    graph = trace(Product().eval(), (torch.ones(3), torch.ones(3)))
    x = torch.tensor([torch.inf, -torch.inf, torch.finfo(torch.float32).max])
    assert torch.equal(Perturbed(graph, 0, 1.0).run(x, torch.ones(3))[:2], x[:2])


def test_pairs_are_of_opposite_signs() -> None:
    assert signed_seeds([3, 5]) == [(3, 1.0), (3, -1.0), (5, 1.0), (5, -1.0)]


def test_a_run_for_given_codes_reaches_the_quantizers_and_no_further(quantized: fx.GraphModule, images: Tensor) -> None:
    names = [name for name, module in quantized.named_modules() if isinstance(module, Quantizer) and "_quantized." not in name]
    codes = {name: quantized.get_submodule(name).encode(torch.zeros(1)) for name in names}  # type: ignore[operator]
    reached: dict[str, Tensor] = {}
    first = next(name for name in names if isinstance(quantized.get_submodule(name), Uniform))
    run = Perturbed(quantized, 0, 1.0, codes=codes, quantizers=[first], reached=reached.__setitem__)
    run.run(images)
    assert list(reached) == [first]
    difference = (reached[first] - images).abs()
    assert 0 < difference.max() <= 1.01 * MOVE * images.abs().max()


def test_ancestors_end_at_the_nearest_quantizers(quantized: fx.GraphModule) -> None:
    gelu = next(calls(quantized, aten.gelu.default))
    found = behind_quantizers(quantized, [gelu])
    quantizers = [node for node in found if node.op == "call_module" and "quantizer" in str(node.target)]
    layers = [node for node in found if node.op == "call_module" and "quantized" in str(node.target)]
    assert len(quantizers) == len(layers) == 1
    assert set(found) == {gelu, *quantizers, *layers}
