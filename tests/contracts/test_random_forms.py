"""However a network is written: what comes out is what the float model gives, in torch, in the file and after loading."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.data.batches import model_inputs
from tests.contracts.judge import judge
from tests.contracts.reference_evaluator import check_with_reference_evaluator
from tests.contracts.test_random_networks import COMMON
from tests.random.forms import Form, batch, build, forms
from tests.random.parts import in_parts, run_part

#: Recipes whose outputs stay near the float model's.
EIGHT_BITS = st.sampled_from(["w8a8", "repq-vit-w8a8", {"preset": "w8a8", "rotate_heads": False, "rotate_residual": False}])
#: Signal over error, in decibels, of the worst output. Forms measured one by one had 27 to 40.
LEAST = 15.0


def check(form: Form, recipe: Any, *, with_files: bool = True) -> None:
    """Takes one network the whole way, or up to its files, and asks the float model."""
    model = build(form)
    twin = build(dataclasses.replace(form, region="none"))  # autocast is taken in float32
    others = batch(form, 5, 3)
    batches = [batch(form, 16, 1), batch(form, 16, 2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if with_files else None
        graph = judge(model, batches, [others], config=recipe, decibels=LEAST, folder=folder, twin=twin)
        if folder is not None:
            check_with_reference_evaluator(graph, folder / "model.onnx", model_inputs(others, model))


@pytest.mark.slow
@given(forms(most_blocks=1), EIGHT_BITS, st.booleans())
@settings(max_examples=4, derandomize=True, **COMMON)
def test_any_form_of_a_network(form: Form, recipe: Any, with_files: bool) -> None:
    check(form, recipe, with_files=with_files)  # the files take most of the time


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@in_parts
def test_five_hundred_forms_of_networks(part: int) -> None:
    run_part(part, check, forms(most_blocks=2), EIGHT_BITS, **COMMON)
