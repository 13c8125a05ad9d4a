"""The report as text, as JSON and as a page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from qpass.report.bits import BitWidths, bit_widths
from qpass.report.checks import check_rows
from qpass.report.data import ReportData
from qpass.runtime.plain_data import check_plain
from qpass.runtime.records import record


@dataclass(frozen=True, repr=False)
class QuantReport(ReportData):
    """All that ``quantize_graph`` records of a run; ``print`` it, or read its fields (``ReportData``)."""

    def to_json(self) -> str:
        """Returns the report as JSON; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> QuantReport:
        """Reads what ``to_json`` wrote.

        Raises:
            DataError: Naming the field that is missing, unknown or of the wrong type.
        """
        return cls.from_plain(json.loads(text))

    @classmethod
    def from_plain(cls, data: Any) -> QuantReport:
        """Reads the parsed output of ``to_json``.

        Raises:
            DataError: Naming the field that is missing, unknown, of the wrong type or out of range.
        """
        check_plain(data, "report")
        report = record(cls, data, "report")
        check_rows(report)
        return report

    def to_html(self) -> str:
        """Returns one standalone page with plots."""
        from qpass.report.html import render  # matplotlib and jinja2 are slow to import

        return render(self)

    @property
    def bits(self) -> tuple[BitWidths, ...]:
        """Bit widths of the activations and of the weights."""
        return bit_widths(self)

    def _repr_html_(self) -> str:
        """Shows the page in a notebook, in a frame of its own."""
        from qpass.report.html import framed

        return framed(self)

    def __repr__(self) -> str:
        name = f"{self.model} as {self.recipe}"
        return f"<QuantReport: {name}, {len(self.layers)} layers, output {self.output_sqnr_db:.1f} dB>"

    def __str__(self) -> str:
        quantized = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        lines = [
            f"{self.model} as {self.recipe}: quantized {quantized}; output {self.output_sqnr_db:.1f} dB",
            f"{'block':<36} {'SQNR dB':>8}",
            *(f"{block.path:<36} {block.sqnr_db:>8.1f}" for block in self.blocks),
            *(f"{name}: {size / 1e6:.2f} MB" for name, size in self.sizes.items()),
        ]
        if self.agreement:
            same, samples = self.agreement.same, self.agreement.samples
            lines.insert(1, f"top-1 class: as float on {same} of {samples} calibration samples")
        if self.source_check:
            lines.append(f"compared: {self.source_check}")
        if self.target:
            lines.append(f"file for {self.target}, {self.options_text}; exact on {self.processors}")
        for widths in self.bits:
            lines.append(str(widths))
            lines += [f"  {row.bits} bits: {row.path or '(model)'}, {row.name}" for row in widths.wider]
        if outputs := [row for row in self.tensors if row.kind == "output"]:
            lines.append(
                f"outputs of {len(outputs)} convolutions: {outputs[0].bits} bits, since integer kernels give no floats"
            )
        if self.reconstruction:
            lines.append(f"{'learned block':<36} {'error before':>12} {'after':>8}  ranks")
            lines += [
                f"{row.label:<36} {row.error_before:>12.4f} {row.error_after:>8.4f}  {' '.join(map(str, row.ranks.values()))}"
                for row in self.reconstruction
            ]
        if self.unrotated:
            lines.append("not rotated:")
            lines += [f"  {what} {path or '(model)'}: {reason}" for what, path, reason in self.unrotated]
        if self.channel_strengths:
            lines.append("strength of channel scales:")
            lines += [f"  {path or '(model)'}: {strength}" for path, strength in self.channel_strengths]
        if self.not_rewritten:
            lines.append("not rewritten:")
            lines += [f"  {rule} {path or '(model)'}: {reason}" for rule, path, reason in self.not_rewritten]
        if self.weights_only:
            lines.append("quantized weights, float products:")
            lines += [f"  {kind} {path or '(model)'}: {reason}" for kind, path, reason in self.weights_only]
        if self.stayed_float:
            lines.append("stayed float:")
            lines += [f"  {kind} {path or '(model)'}: {reason}" for kind, path, reason in self.stayed_float]
        return "\n".join(lines)
