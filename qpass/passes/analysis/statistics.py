"""What calibration leaves with a graph for the passes that fit quantizers to it."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import info

#: Observers by the name of the node whose output they saw: of the whole tensor, of its channels, of a product that it enters.
STATISTICS = ("statistics", "channel_statistics", "product_statistics")


def forget_statistics(graph_module: fx.GraphModule) -> None:
    """Releases them: 64 KiB for a tensor, 8 KiB for a channel, and what samples of products take."""
    for key in STATISTICS:
        info(graph_module).pop(key, None)
