from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.compiler import run
from qpass.compiler.run import RunOptions, rows_within
from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.graph.capture.trace import trace
from qpass.runtime.distributed import Processes
from tests.models import small_vit


def test_rows_are_those_whose_largest_value_fits() -> None:
    """The images themselves are larger than (batch, 17, 144) from qkv."""
    graph = trace(small_vit(), (torch.randn(2, 3, 32, 32),))
    assert rows_within(graph, 3 * 32 * 32 * 4 * 10) == 10
    assert rows_within(graph, 1) == 1


@pytest.mark.parametrize(("given", "processes", "used"), [(1, 1, 8), (64, 1, 16), (16, 1, 16), (1, 16, 4)])
def test_batches_are_evened_out(given: int, processes: int, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "VALUE_BYTES", 3 * 32 * 32 * 4 * 16)
    graph = trace(small_vit(), (torch.randn(2, 3, 32, 32),))
    batches = [ModelInputs((part,), {}) for part in torch.randn(64, 3, 32, 32).split(given)]
    options = RunOptions(processes=Processes(0, processes))
    found = run._suitable_batches(graph, batches, options)
    assert {batch_size(batch) for batch in found} == {used}
    assert sum(map(batch_size, found)) == 64


def test_the_batches_of_the_loader_do_not_matter_to_ranges(vit: nn.Module, images: Tensor) -> None:
    """One image at a time, as a loader without batches gives them."""
    together, apart = (qpass.quantize_graph(vit, images.split(size), "w8a8", progress=False) for size in (8, 1))
    for name, tensor in together.state_dict().items():
        assert torch.equal(tensor, apart.state_dict()[name]), name
