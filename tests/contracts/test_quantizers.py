"""What every quantizer must satisfy. A new one plugs in by its entry in ``QUANTIZERS`` and its lowering."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.lowerings import CODES, lowering_of
from qpass.quantizers import QUANTIZERS, ByteTable, Codebook, Log2, LookUp, Quantizer, ShiftLog2, Tan


class GatherElements(OpRun):
    """Of the reference evaluator, whose own takes 64 indices at most."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices, axis=axis),)


NAMES = sorted(QUANTIZERS)
BITS = (2, 3, 4, 6, 8)


def metric(quantizer: Quantizer, x: torch.Tensor) -> torch.Tensor:
    """The scale on which the quantizer's steps are equal, in float64."""
    x = x.double()
    if isinstance(quantizer, Log2):
        return x.clamp(min=1e-300).log()
    if isinstance(quantizer, ShiftLog2):
        return (x + quantizer.eta.double()).log()
    if isinstance(quantizer, Tan):
        return (quantizer.low.double() + x * quantizer.slope.double()).tan()
    if isinstance(quantizer, Codebook):  # the level nearest to the cell that x falls into
        return quantizer.grid(x.float()).double()
    return x


def fitted(name: str, bits: int, seed: int = 0) -> tuple[Quantizer, torch.Tensor]:
    """A quantizer and Softmax maps that it was fitted to: what all kinds can hold."""
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)
    return QUANTIZERS[name](bits).fit(x), x


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", NAMES)
class TestEveryQuantizer:
    def test_codes_are_integers_of_that_many_bits(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        codes = quantizer.encode(x)
        assert codes.dtype == (torch.int8 if quantizer.signed else torch.uint8)
        assert quantizer.code_max - quantizer.code_min == 2**bits - 1
        assert codes.min() >= quantizer.code_min
        assert codes.max() <= quantizer.code_max
        assert codes.unique().numel() > 1

    def test_forward_is_decode_of_encode(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        assert torch.equal(quantizer(x), quantizer.decode(quantizer.encode(x)))

    def test_switched_off_it_changes_nothing(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        assert quantizer.enabled
        assert not quantizer.tabulated, "a table is made where the recipe says so"
        quantizer.enabled = False
        assert torch.equal(quantizer(x), x)

    def test_every_level_encodes_to_its_own_code(self, name: str, bits: int) -> None:
        quantizer, _ = fitted(name, bits)
        levels, codes = quantizer.levels(), torch.arange(quantizer.code_min, quantizer.code_max + 1)
        held = levels.abs() >= torch.finfo(torch.float32).tiny  # 8 bits of powers of two reach below float32
        assert (levels[held].diff() > 0).all(), "values ascend with codes"
        assert torch.equal(quantizer.encode(levels[held]).int(), codes[held].int())

    def test_encode_is_monotone(self, name: str, bits: int) -> None:
        quantizer, _ = fitted(name, bits)
        codes = quantizer.encode(torch.linspace(0, 1.5, 5001)).int()
        assert (codes.diff() >= 0).all()

    def test_an_element_lies_within_half_a_step_of_its_level(self, name: str, bits: int) -> None:
        """No level is nearer than the chosen one, on the scale on which steps are equal."""
        quantizer, x = fitted(name, bits)
        levels = quantizer.levels()
        inside = x[(x > levels[1]) & (x < levels[-1])]
        candidates = levels[levels > 0] if isinstance(quantizer, Log2) else levels
        nearest = (metric(quantizer, inside)[:, None] - metric(quantizer, candidates)).abs().amin(1)
        chosen = (metric(quantizer, inside) - metric(quantizer, quantizer(inside))).abs()
        assert (chosen <= nearest + 1e-5).all()

    def test_gradient_is_that_of_the_formula_with_rounding_left_out(self, name: str, bits: int) -> None:
        """With x̂ = m⁻¹(round(m(x))): dx̂/dx = m'(x) / m'(x̂), 1 for equal steps."""
        quantizer, x = fitted(name, bits)
        levels = quantizer.levels()
        x = x[(x > levels[1]) & (x < levels[-1])].clone().requires_grad_()
        approximation = quantizer(x)
        (gradient,) = torch.autograd.grad(approximation.sum(), x)
        slopes = []
        for value in (x, approximation):
            at = value.detach().double().requires_grad_()
            slopes.append(torch.autograd.grad(metric(quantizer, at).sum(), at)[0])
        torch.testing.assert_close(gradient.double(), slopes[0] / slopes[1], rtol=1e-4, atol=0)

    def test_rebuilds_from_its_config(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        again = type(quantizer)(**quantizer.config)
        again.load_state_dict(quantizer.state_dict())
        assert torch.equal(again.encode(x), quantizer.encode(x))

    def test_a_table_of_it_has_its_values_and_thresholds_within_half_a_cell(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        table = LookUp.of(quantizer)
        x = torch.cat([torch.zeros(1), x.flatten()])
        lower, upper = (quantizer(x * (sign * table.log_step / 2).exp()) for sign in (-1, 1))
        found = table(x)
        slack = 1e-6 * found.abs()
        assert ((lower - slack <= found) & (found <= upper + slack)).all()
        assert table.levels().numel() <= 2**bits

    def test_deployed_codes_and_values_equal_those_of_the_reference_evaluator(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        check_deployed(ByteTable.of(quantizer) if isinstance(quantizer, Codebook) else quantizer, x)
        check_deployed(LookUp.of(quantizer), x)


def check_deployed(quantizer: Quantizer, x: torch.Tensor) -> None:
    codes, values = run_lowered(quantizer, x.numpy())
    assert (codes == quantizer.encode(x).numpy()).mean() > 0.999  # logarithms of two libraries differ on ties
    np.testing.assert_allclose(values, quantizer.decode(torch.from_numpy(codes)).numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**16), constant=st.booleans())
def test_any_fit_gives_finite_values_and_idempotent_rounding(
    name: str, bits: int, scale: float, seed: int, constant: bool
) -> None:
    x = torch.rand(200, generator=torch.Generator().manual_seed(seed)) * scale
    x = torch.full_like(x, x[0]) if constant else x
    quantizer = QUANTIZERS[name](bits).fit(x)
    once = quantizer(x)
    assert once.isfinite().all()
    assert torch.equal(quantizer(once), once)


def run_lowered(quantizer: Quantizer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowers one quantizer to an ONNX model and runs that in onnx's reference evaluator."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 21}, name="lowered")
    node = ir.node("Placeholder", [value])
    emit = Emitter(graph, "q")
    output = lowering_of(quantizer, "q")(quantizer, node, emit)
    graph.extend(emit.nodes)
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(x.shape)
    codes = next(v for n in graph for v in n.outputs if v.name == "q" + CODES)
    codes.shape = ir.Shape(x.shape)
    graph.outputs.extend([codes, output])
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10))
    found_codes, found_values = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, {"x": x})
    return found_codes, found_values
