"""A graph's ``repr`` is one line; printing it shows the code."""

from __future__ import annotations

from pathlib import Path

from torch import fx

import qpass


def test_one_line(quantized: fx.GraphModule, tmp_path: Path) -> None:
    count = len(quantized.graph.nodes)
    line = f"<VisionTransformer: graph quantized as w8a8, {count} nodes; print it to see its code>"
    assert repr(quantized) == line
    assert repr(qpass.load(qpass.save(quantized, tmp_path / "a.qpass"))) == line
    assert "def forward(self, x)" in str(quantized)
    assert "quantized as" not in repr(fx.symbolic_trace(quantized.get_submodule("x_quantizer"))), "other graphs keep theirs"
