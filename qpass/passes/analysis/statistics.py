"""Calibration statistics for the passes that fit quantizers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from qpass.observers import HistogramObserver, ProductObserver


@dataclass
class Statistics:
    """Observers by the node whose output they observed.

    Passes share one object. It is not part of the graph, so copies of the graph do not copy it. A
    tensor takes 64 KiB, a channel 8 KiB, and samples of products more.

    Attributes:
        tensors: Observers of whole tensors.
        channels: Observers of LayerNorm outputs, per channel.
        products: Observers of products, by the tensor that is fitted by their error.
    """

    tensors: dict[fx.Node, HistogramObserver] = field(default_factory=dict)
    channels: dict[fx.Node, HistogramObserver] = field(default_factory=dict)
    products: dict[fx.Node, ProductObserver] = field(default_factory=dict)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Moves the observers of one node to another that replaces it."""
        if old in self.tensors:
            self.tensors[new] = self.tensors.pop(old)
        if old in self.products:
            self.products[new] = self.products.pop(old)

    def clear(self) -> None:
        """Releases all observers."""
        for observers in (self.tensors, self.channels, self.products):
            observers.clear()
