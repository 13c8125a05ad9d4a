"""What every quantizer must satisfy. A new one plugs in by its entry in ``QUANTIZERS`` and its lowering."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.lowerings import CODES, lowering_of
from qpass.quantizers import QUANTIZERS, Quantizer

NAMES = sorted(QUANTIZERS)
#: Those whose steps are equal; the others have equal ratios.
LINEAR = ("uniform", "dynamic-focus")
BITS = (2, 3, 4, 6, 8)


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
        """No level is nearer than the chosen one, in the metric of the quantizer: linear, or ratios for logarithms."""
        quantizer, x = fitted(name, bits)
        levels = quantizer.levels()
        inside = x[(x > levels[1]) & (x < levels[-1])]
        to_metric = (lambda t: t) if name in LINEAR else (lambda t: t.clamp(min=1e-30).log())
        candidates = levels if name in LINEAR else levels[levels > 0]
        nearest = (to_metric(inside)[:, None] - to_metric(candidates)).abs().amin(1)
        chosen = (to_metric(inside) - to_metric(quantizer(inside))).abs()
        assert (chosen <= nearest + 1e-5).all()

    def test_gradient_passes_straight_through_inside_the_range(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        levels = quantizer.levels()
        x = x[(x > levels[1]) & (x < levels[-1])].clone().requires_grad_()
        quantizer(x).sum().backward()
        # Exact for uniform codes; a logarithm's x̂ / x is 1 up to half a step.
        bound = 1e-6 if name in LINEAR else 2 ** (0.5 / quantizer.steps_per_octave) - 1 + 1e-5
        assert ((x.grad - 1).abs() <= bound).all()

    def test_rebuilds_from_its_config(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
        again = type(quantizer)(**quantizer.config)
        again.load_state_dict(quantizer.state_dict())
        assert torch.equal(again.encode(x), quantizer.encode(x))

    def test_deployed_codes_and_values_equal_those_of_the_reference_evaluator(self, name: str, bits: int) -> None:
        quantizer, x = fitted(name, bits)
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
    found_codes, found_values = ReferenceEvaluator(model).run(None, {"x": x})
    return found_codes, found_values
