"""Rows as measurements leave them."""

from __future__ import annotations

from typing import Any

from provenance import Provenance
from stored_rows import Drawn, Row


def measured(recipe: str = "w8a8", seed: int = 0, **changes: Any) -> Row:
    """Returns a row of four images."""
    samples = changes.pop("samples", [100.0, 0.0, 100.0, 100.0])
    fields: dict[str, Any] = {
        "config": "c0",
        "scores": {"top-1": sum(samples) / len(samples)},
        "samples": {"top-1": samples},
        "verified": True,
        "file_mb": 1.5,
        "drawn": Drawn(128, 1000, seed, "d0"),
        "provenance": made_with(),
    }
    return Row(recipe, seed, **fields | changes)


def made_with(**changes: Any) -> Provenance:
    """Returns where a row comes from."""
    fields = {
        "commit": "abc",
        "machine": "CPU",
        "versions": {"torch": "2"},
        "threads": 1,
        "date": "2026-11-27",
        "sources": "s0",
    }
    return Provenance(**fields | changes)
