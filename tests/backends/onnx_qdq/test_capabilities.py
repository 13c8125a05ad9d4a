"""What the installed onnxruntime can do is tried, and what is asked for beyond it is refused."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest

import qpass.backends.onnx_qdq.capabilities as capabilities
from qpass.backends.onnx_qdq.capabilities import (
    LEAST_OPSET,
    PREFERRED_OPSET,
    explain,
    explain_weight_type,
    int8_matmul_is_exact,
    ir_version_for,
    loads,
    use_int8_weights,
)
from qpass.errors import LoweringError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Answers are kept; a test that changes what onnxruntime can do must not leave any."""
    yield
    int8_matmul_is_exact.cache_clear()
    ir_version_for.cache_clear()


def test_a_version_that_does_not_exist_is_not_loaded() -> None:
    assert loads(PREFERRED_OPSET, 10)
    assert not loads(PREFERRED_OPSET, 1000)
    assert not loads(1000, 10)


def test_an_opset_has_the_ir_version_that_it_came_with() -> None:
    """https://github.com/onnx/onnx/blob/main/docs/Versioning.md: opset 20 with IR 9, opset 21 with IR 10."""
    assert [ir_version_for(opset) for opset in (20, 21)] == [9, 10]


def test_an_older_ir_version_is_taken_where_the_runtime_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    ir_version_for.cache_clear()
    monkeypatch.setattr(capabilities, "loads", lambda opset, version: version <= 8)
    assert ir_version_for(21) == 8
    assert "IR version 8, the newest that onnxruntime" in explain(21)


@pytest.mark.parametrize("opset", [LEAST_OPSET - 1, onnx.defs.onnx_opset_version() + 1])
def test_opsets_out_of_range_are_refused(opset: int) -> None:
    with pytest.raises(LoweringError, match=f"export_onnx: opset {opset}; expected an opset from {LEAST_OPSET} to"):
        ir_version_for(opset)


def test_an_opset_that_is_not_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ir_version_for.cache_clear()
    monkeypatch.setattr(capabilities, "loads", lambda opset, version: False)
    with pytest.raises(LoweringError, match=r"onnxruntime .* does not load opset 21; leave opset out to use 21"):
        ir_version_for(21)


@pytest.mark.parametrize("exact", [True, False])
def test_the_type_of_weights_is_what_is_exact_or_asked_for(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "int8_matmul_is_exact", lambda: exact)
    monkeypatch.setattr(int8_matmul_is_exact, "cache_clear", lambda: None, raising=False)
    assert [use_int8_weights(kind) for kind in ("auto", "int8", "uint8")] == [exact, True, False]
    assert ("overflow here" in explain_weight_type("auto")) != exact
    assert explain_weight_type("uint8") == "8-bit factors uint8, as asked for"


def test_another_type_of_weights_is_refused() -> None:
    with pytest.raises(LoweringError, match="no weight type is called 'int9'; did you mean 'int8'"):
        use_int8_weights("int9")


def test_a_file_says_why_it_is_of_its_version() -> None:
    text = explain(PREFERRED_OPSET)
    assert (
        f"opset {PREFERRED_OPSET} with 4-bit integers, the least with them; IR version 10, the one that opset came with" in text
    )
    assert "without 4-bit integers, which are packed into bytes" in explain(LEAST_OPSET)
    assert explain(LEAST_OPSET, packs=False).startswith(f"opset {LEAST_OPSET}; IR version ")
