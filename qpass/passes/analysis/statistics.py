"""What calibration saw, for the passes that fit quantizers to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from qpass.observers import HistogramObserver, ProductObserver


@dataclass
class Statistics:
    """Observers by the node whose output they saw.

    Passes share one object. It is no part of the graph, so copies of the graph do not copy it: a tensor takes 64 KiB, a channel
    8 KiB, and samples of products more.

    Attributes:
        tensors: Of whole tensors.
        channels: Of LayerNorm outputs, channel by channel.
        products: Of products, by the tensor that is to be fitted by their error.
    """

    tensors: dict[fx.Node, HistogramObserver] = field(default_factory=dict)
    channels: dict[fx.Node, HistogramObserver] = field(default_factory=dict)
    products: dict[fx.Node, ProductObserver] = field(default_factory=dict)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Says that one node takes the place of another."""
        if old in self.tensors:
            self.tensors[new] = self.tensors.pop(old)
        if old in self.products:
            self.products[new] = self.products.pop(old)

    def clear(self) -> None:
        """Releases all observers."""
        for observers in (self.tensors, self.channels, self.products):
            observers.clear()
