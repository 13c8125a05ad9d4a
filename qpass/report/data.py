"""The report's data: rows for tensors, layers and blocks, and what stayed float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qpass.config.mixed import truthful_name
from qpass.graph.source_check import SourceCheck
from qpass.passes.allocate_bits import Allocated
from qpass.reconstruction.record import BlockRecord


@dataclass(frozen=True)
class TensorRow:
    """One quantized activation or weight.

    Attributes:
        name: Quantizer (activations) or layer (weights).
        path: Module path.
        kind: ``"activation"``, ``"weight"``, or ``"output"``: the output of a convolution, which has 8
            bits because its integer kernel gives no floats.
        quantizer: Class of the quantizer.
        bits: Bit width of the codes.
        scale: Its scale; the mean over channels if per channel.
        zero_point: Its zero point, likewise; None if it has none.
        low: Smallest value on the sample.
        high: Largest value on the sample.
        sqnr_db: Signal-to-quantization-noise ratio (SQNR) of this tensor alone, in dB.
        histogram: Counts of the values in equal bins of [low, high].
        levels: The levels of the quantizer (first channel of a weight), at most 256.
        size: Multiply-adds that read it in the traced example (activations), or values (weights); 0 in
            reports of earlier versions.
        network_input: Whether it is an input of the network.
        part: What it is in the layer that reads it: "input", "weight", or "Q", "K", "Softmax" and "V"
            in attention; "" in reports of earlier versions.
        readers: (module path, role in a rule) of each layer that reads it; empty in reports of earlier
            versions.
        output_error: First-order error of the network's output from rounding this tensor alone, as a
            share of the squared output; None unless the recipe has a budget.
    """

    name: str
    path: str
    kind: str
    quantizer: str
    bits: int
    scale: float
    zero_point: float | None
    low: float
    high: float
    sqnr_db: float
    histogram: tuple[int, ...] = ()
    levels: tuple[float, ...] = ()
    size: int = 0
    network_input: bool = False
    part: str = ""
    readers: tuple[tuple[str, str], ...] = ()
    output_error: float | None = None

    @property
    def label(self) -> str:
        """Names the tensor by the layer that reads it, or that gives it."""
        if not self.readers and self.kind == "output":
            return f"{self.path or '(model)'} · output"
        if not self.readers:
            name = self.name.removesuffix("_quantizer")
            return f"{self.path}: {name}" if self.path and self.kind != "weight" else self.path or name
        others = f" (+ {len(self.readers) - 1} more)" if self.readers[1:] else ""
        return f"{self.readers[0][0] or '(model)'} · {self.part}{others}"


@dataclass(frozen=True)
class LayerRow:
    """One quantized layer: its output in the quantized network compared with the float one.

    Attributes:
        path: Module path.
        kind: ``"linear"``, ``"conv1d"``, ``"conv2d"``, ``"conv3d"``, ``"matmul"`` or ``"softmax"``.
        weight_bits: Bit width of its weight; None for a matmul or a float weight.
        input_bits: Bit widths of its inputs.
        sqnr_db: SQNR of its output, including the errors of all layers before it, in dB.
        residual_rank: Rank of the residual branch that corrects its weight's rounding; 0 for none.
        reason: Why its input is float if its weight is not; "" in reports of earlier versions.
        part: Which of several matmuls of its module it is, such as "QKᵀ" or "AV"; "" if there is one.
    """

    path: str
    kind: str
    weight_bits: int | None
    input_bits: tuple[int | None, ...]
    sqnr_db: float
    residual_rank: int = 0
    reason: str = ""
    part: str = ""

    @property
    def label(self) -> str:
        """Module path, and which of its matmuls."""
        return f"{self.path or '(model)'} · {self.part}" if self.part else self.path or "(model)"


@dataclass(frozen=True)
class BlockRow:
    """One transformer block: SQNR of its output in the quantized network, in dB."""

    path: str
    sqnr_db: float


@dataclass(frozen=True)
class Agreement:
    """How often the quantized network's largest class score is that of the float network.

    Attributes:
        same: Number of samples where they agree.
        samples: Number of samples compared. They are calibration samples.
        classes: Number of scores per sample.
    """

    same: int
    samples: int
    classes: int

    @property
    def share(self) -> float:
        """The share of samples where they agree."""
        return self.same / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share (Wilson's)."""
        n, z = self.samples, 1.96
        centre, spread = self.share + z * z / (2 * n), z * math.sqrt(self.share * (1 - self.share) / n + z * z / (4 * n * n))
        return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


@dataclass(frozen=True)
class Speed:
    """Speed of the quantized file in one setting.

    Attributes:
        speedup: Time of the float file over time of the quantized file.
        batch: Batch size.
        threads: Threads in an operator.
        machine: Processor and versions.
    """

    speedup: float
    batch: int
    threads: int
    machine: str = ""


@dataclass(frozen=True)
class Verified:
    """Outcome of a verification of the file.

    Attributes:
        passed: Whether everything is within its bounds.
        summary: The verdict in one line.
        samples: Number of samples run.
    """

    passed: bool
    summary: str
    samples: int


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of one input.

    Attributes:
        width: Pixels in a row.
        height: Number of rows.
        channels: 1 (grey) or 3 (red, green, blue).
        rows: Bytes of each row, in base64.
    """

    width: int
    height: int
    channels: int
    rows: tuple[str, ...]


@dataclass(frozen=True)
class InputPreview:
    """What the network was calibrated on: the first image-like input, after preprocessing.

    Attributes:
        name: Name of the input.
        shape: Its shape without the batch dim: channels, height and width.
        lows: Smallest value of each channel on the sample.
        highs: Largest value of each channel.
        means: Mean of each channel.
        stds: Standard deviation of each channel.
        images: The first samples. Black is the smallest and white the largest value of all channels.
    """

    name: str
    shape: tuple[int, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    images: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything ``quantize_graph`` records about a run.

    Attributes:
        model: Class of the model.
        config: The recipe, as plain data.
        dynamic_batch: Whether the graph accepts any batch size.
        samples: Number of calibration samples that errors were measured on.
        tensors: Every quantized tensor.
        layers: Every quantized layer, in order.
        blocks: Every transformer block found, in order.
        stayed_float: (kind, module path, reason) of each layer that could be quantized and is not.
        output_sqnr_db: SQNR of the network's output, in dB; the lowest of several outputs.
        source_check: How close the float graph was to the given model before quantization.
        sizes: Bytes by name: weights as float32, weights as stored, and files once known.
        reconstruction: What was learned for each block, if the recipe learns.
        unrotated: ("heads" or "residual stream", module path, reason) of what was not rotated, if the
            recipe rotates it.
        not_rewritten: (rule, module path, reason) of what a rewrite rule declined, except what is in
            ``stayed_float``.
        channel_strengths: (module path, strength) of each activation function's output whose channels
            the recipe may even out; 0 where it does not.
        allocation: The bit widths that the budget assigned, if the recipe has one.
        target: The runtime that the file was written for, once known.
        options: Options that this runtime needs to compute what the graph computes.
        processors: Processors on which the file computes that exactly.
        seed: Seed of the run; None in reports of earlier versions.
        calibration_samples: Number of calibration samples; 0 in reports of earlier versions.
        agreement: How often the largest class score is float's; None if the output is no class scores.
        preview: What the calibration images look like to the network; None if no input is an image.
        speed: Speed in each setting that was measured, once known.
        verified: Outcome of the verification of the file, once known.
    """

    model: str
    config: Mapping[str, Any]
    dynamic_batch: bool
    samples: int
    tensors: tuple[TensorRow, ...]
    layers: tuple[LayerRow, ...]
    blocks: tuple[BlockRow, ...]
    stayed_float: tuple[tuple[str, str, str], ...]
    output_sqnr_db: float
    source_check: SourceCheck | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    reconstruction: tuple[BlockRecord, ...] = ()
    unrotated: tuple[tuple[str, str, str], ...] = ()
    not_rewritten: tuple[tuple[str, str, str], ...] = ()
    channel_strengths: tuple[tuple[str, float], ...] = ()
    allocation: tuple[Allocated, ...] = ()
    target: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    processors: str = ""
    seed: int | None = None
    calibration_samples: int = 0
    agreement: Agreement | None = None
    preview: InputPreview | None = None
    speed: tuple[Speed, ...] = ()
    verified: Verified | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of quantized layers of each kind."""
        kinds = [layer.kind for layer in self.layers]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    @property
    def weights_only(self) -> list[tuple[str, str, str]]:
        """(kind, module path, reason) of each layer with a quantized weight whose input stays float."""
        return [(layer.kind, layer.path, layer.reason) for layer in self.layers if layer.reason]

    @property
    def recipe(self) -> str:
        """The recipe's name, as it is called now."""
        return truthful_name(self.config)

    @property
    def options_text(self) -> str:
        """The options as text."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items()) or "default options"
