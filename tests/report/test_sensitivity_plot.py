"""One svg with the names of the tensors, whatever the number of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from qpass.passes.analysis.tensor_sensitivity import TensorSensitivity
from qpass.report.sensitivity_plot import errors_of_tensors


@pytest.mark.parametrize("count", [1, 60])
def test_the_plot_names_the_most_sensitive(count: int) -> None:
    tensors = [
        TensorSensitivity(((f"blocks.{n}.a$b", role),), 4, 10, {4: (n + 1) / 100, 8: n / 1e4}, {8: {"bits": 8}})
        for n, role in enumerate(["weight", "activation", "post_softmax"] * (count // 3 or 1))
    ]
    text = errors_of_tensors(tensors[::-1])
    root = ElementTree.fromstring(text)
    words = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")}
    assert f"blocks.{len(tensors) - 1}.a$b, 4 bits" in words
    assert ("blocks.0.a$b, 4 bits" in words) == (count == 1), "40 at most"
    assert {"weight", "activation", "post softmax", "at the most bits tried"} <= words
    assert text == errors_of_tensors(tensors[::-1])
