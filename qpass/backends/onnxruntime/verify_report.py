"""The result of a verification: what was checked, what failed, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qpass.backends.onnxruntime.layer_check import LayerCheck
from qpass.backends.onnxruntime.layer_output_check import LayerOutputCheck
from qpass.backends.onnxruntime.output_check import ERROR_RATIO, OutputCheck
from qpass.runtime.notebook import ShownAsText

#: Maximum layers and outputs named in a verdict.
_NAMED = 4


@dataclass(frozen=True)
class RuntimeCheck:
    """Check of one way of running the file.

    Attributes:
        name: ``"as written"`` (optimisations off), ``"as shipped"`` (onnxruntime's default) or ``"in
            OpenVINO"``.
        layers: The check of each quantizer; empty in OpenVINO, which is only run freely.
        outputs: The check of each output of the network.
        flipped_share: Share of codes that differ in a free run, in which ties cascade; None where
            codes cannot be read.
        sqnr_db: Signal over error of the float outputs against torch, in dB, each output scaled by
            its norm.
        error_ratio: Error against float32 torch, over its own uncertainty: its largest distance
            from float64 and from runs with ties broken differently.
        top1_agreement: Share of samples with the same top-1 class, or None if outputs are not
            (batch, classes).
        layer_outputs: The check of each quantized layer and product, only as written.
    """

    name: str
    layers: tuple[LayerCheck, ...]
    outputs: tuple[OutputCheck, ...]
    flipped_share: float | None
    sqnr_db: float
    error_ratio: float
    top1_agreement: float | None
    layer_outputs: tuple[LayerOutputCheck, ...] = ()

    @property
    def failures(self) -> list[str]:
        """What is out of bounds, in words."""
        found = [layer.failure for layer in self.layer_outputs if layer.failure]
        found += [layer.failure for layer in self.layers if layer.failure]
        found += [failure for output in self.outputs for failure in output.failures]
        if not self.error_ratio <= ERROR_RATIO:
            found.append(
                f"the error of the outputs is {self.error_ratio:.2f} times torch's own uncertainty, "
                f"at most {ERROR_RATIO} expected"
            )
        return [f"{self.name}: {failure}" for failure in found]


@dataclass(frozen=True, repr=False)
class VerifyReport(ShownAsText):
    """Result of ``verify_onnx``. ``print`` it, or read its fields.

    Attributes:
        path: The file, or the folder of the parts' files.
        samples: Number of rows run.
        checks: One for each way of running a file.
        source_checks: How each graph was compared with the caller's model, in words.
        source_informative: Whether these comparisons prove anything: see
            ``SourceCheck.informative``.
        left_out: What was not checked, and why, in words.
    """

    path: str
    samples: int
    checks: tuple[RuntimeCheck, ...] = field(default_factory=tuple)
    source_checks: tuple[str, ...] = ()
    source_informative: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything is within its bounds."""
        return not self.failures

    @property
    def informative(self) -> bool:
        """Whether the free run proves anything.

        False if torch's uncertainty of an output is as large as its variation, or all of it is NaN.
        """
        return all(output.informative for check in self.checks for output in check.outputs)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Layers and outputs that rounding moves as far as their input does: no run proves them."""
        found = [layer.quantizer for check in self.checks for layer in check.layers if not layer.informative]
        found += [f"output {output.name!r}" for check in self.checks for output in check.outputs if not output.decided]
        return tuple(dict.fromkeys(found))

    @property
    def verdict(self) -> str:
        """``"passed"``, ``"failed"``, or what is proven and what is not.

        The last is ``"layers proven, whole run not informative"``, ``"file proven, comparison with
        the model not informative"``, or the names of layers or outputs that rounding decides.
        """
        if not self.passed:
            return "failed"
        if self.undecided:
            return f"rounding decides {', '.join(self.undecided[:_NAMED])}: not proven"
        vague = [] if self.informative else ["whole run"]
        vague += [] if self.source_informative else ["comparison with the model"]
        if not vague:
            return "passed"
        return f"{'file' if self.informative else 'layers'} proven, {' and '.join(vague)} not informative"

    @property
    def failures(self) -> list[str]:
        """Everything that is out of bounds, in words."""
        return [failure for check in self.checks for failure in check.failures]

    @property
    def headline(self) -> str:
        """The verdict in one line: numbers of codes, wrong codes and ties, or the first failure.

        The numbers are those of one run of the file, layer by layer: of the run that has the most.
        """
        if self.failures:
            others = f" ({len(self.failures)} failures in all)" if len(self.failures) > 1 else ""
            return f"FAILED: {self.failures[0]}{others}"
        verdict = "PASSED" if self.verdict == "passed" else f"PASSED ({self.verdict})"
        codes, wrong, ties = (
            max((sum(getattr(layer, what) for layer in check.layers) for check in self.checks), default=0)
            for what in ("codes", "wrong", "ties")
        )
        return f"{verdict}: {codes:,} codes, {wrong:,} wrong, {ties:,} rounding ties; outputs equal within float32 rounding"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return {"passed": self.passed, "informative": self.informative, "verdict": self.verdict, **asdict(self)}

    def __repr__(self) -> str:
        return f"<VerifyReport: {self.headline}>"

    def __str__(self) -> str:
        lines = [self.headline, f"  {self.path} against its graph, {self.samples} samples"]
        lines += [f"  source: {check}" for check in self.source_checks]
        lines += [f"  left out: {what}" for what in self.left_out]
        for check in self.checks:
            lines += _lines(check)
        return "\n".join(lines)


def _lines(check: RuntimeCheck) -> list[str]:
    layers, outputs = check.layers, check.outputs
    off = max([0.0, *(layer.off for layer in layers), *(output.off for output in outputs)])
    between = check.layer_outputs
    top1 = "" if check.top1_agreement is None else f", same top-1 {check.top1_agreement:.1%}"
    vague = ", ".join(output.name for output in outputs if not output.informative)
    free = f"output {check.sqnr_db:.1f} dB, error {check.error_ratio:.2f} x torch's own{top1}"
    if check.flipped_share is None:
        return [f"  {check.name}: running freely: {free}", *(f"    {failure}" for failure in check.failures)]
    lines = [
        f"  {check.name}: {len(layers)} quantizers, {sum(layer.codes for layer in layers)} codes, "
        f"{sum(layer.ties for layer in layers)} ties, {sum(layer.wrong for layer in layers)} wrong (layer by layer)",
        f"    {len(outputs)} outputs, {sum(output.values for output in outputs)} values, "
        f"{sum(output.undecided for output in outputs)} undecided, {sum(output.wrong for output in outputs)} wrong "
        f"(for given codes); greatest error {off:.2f} x what float32 explains",
        f"    running freely: {check.flipped_share:.2%} of codes flipped, {free}",
    ]
    if between:
        farthest = max(layer.off for layer in between)
        lines.insert(
            1,
            f"    {len(between)} layers, {sum(layer.values for layer in between)} values of their outputs (for given codes); "
            f"greatest error {farthest:.2f} x what float32 explains",
        )
    if vague:
        lines.append(f"    running freely proves nothing about {vague}: ties alone move it as far as its input does")
    return lines + [f"    {failure}" for failure in check.failures]
