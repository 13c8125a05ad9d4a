"""Observers follow the node that they observe."""

from __future__ import annotations

from torch import fx

from qpass.observers import HistogramObserver, ProductObserver
from qpass.passes.analysis.statistics import Statistics


def test_observers_move_to_the_node_that_replaces_theirs_and_are_released() -> None:
    graph = fx.Graph()
    old, new, other = (graph.placeholder(name) for name in ("old", "new", "other"))
    histogram, product = HistogramObserver("old"), ProductObserver("old")
    statistics = Statistics(tensors={old: histogram}, products={old: product})
    statistics.replace(other, new)
    assert statistics.tensors == {old: histogram}
    statistics.replace(old, new)
    assert statistics.tensors == {new: histogram}
    assert statistics.products == {new: product}
    statistics.clear()
    assert statistics == Statistics()
