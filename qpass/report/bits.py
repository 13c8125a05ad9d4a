"""Bit widths of a network: their mean, and which are wider than the recipe's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qpass.report.data import ReportData, TensorRow

_PLURALS = {"activation": "activations", "weight": "weights"}


@dataclass(frozen=True)
class BitWidths:
    """Bit widths of all activations but the network's inputs, or of all weights.

    Attributes:
        kind: ``"activation"`` or ``"weight"``.
        usual: The recipe's bit width.
        mean: Mean over the multiply-adds that read an activation, or over values of weights.
        rows: The tensors.
        network_inputs: Bit widths of the network's inputs.
    """

    kind: str
    usual: int
    mean: float
    rows: tuple[TensorRow, ...]
    network_inputs: tuple[int, ...] = ()

    @property
    def wider(self) -> tuple[TensorRow, ...]:
        """The tensors with more bits than the recipe's."""
        return tuple(row for row in self.rows if row.bits > self.usual)

    def __str__(self) -> str:
        counts = Counter(row.bits for row in self.rows)
        if len(counts) == 1:
            text = f"{_PLURALS[self.kind]}: {self.rows[0].bits} bits"
        else:
            others = [f"{counts[bits]} of {len(self.rows)} have {bits} bits" for bits in sorted(counts) if bits != self.usual]
            text = f"{_PLURALS[self.kind]}: {self.mean:.2f} bits on average, {', '.join(others)}"
        inputs = " and ".join(str(bits) for bits in sorted(set(self.network_inputs)) if bits != self.usual)
        return f"{text} (network input {inputs})" if inputs else text


def bit_widths(report: ReportData) -> tuple[BitWidths, ...]:
    """Returns the bit widths of the activations and of the weights, without a kind that has none.

    Reports of versions that did not record sizes give the mean over tensors.
    """
    found = []
    for kind in _PLURALS:
        rows = {row.name: row for row in report.tensors if row.kind == kind}
        counted = tuple(row for row in rows.values() if not row.network_input)
        if not counted:
            continue
        calls = Counter[str]()  # a module that is called twice has two rows
        for row in report.tensors:
            calls[row.name] += row.size if row.kind == kind else 0
        sizes = [calls[row.name] for row in counted]
        if not all(sizes):
            sizes = [1] * len(counted)
        found.append(
            BitWidths(
                kind=kind,
                usual=report.config[kind]["bits"],
                mean=sum(row.bits * size for row, size in zip(counted, sizes, strict=True)) / sum(sizes),
                rows=counted,
                network_inputs=tuple(row.bits for row in rows.values() if row.network_input),
            )
        )
    return tuple(found)
