"""One line for each preset: what has how many bits, and what learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qpass.config.options import QuantizerName
from qpass.config.presets import PRESETS, preset_fields
from qpass.config.spec import QuantSpec

#: What is special about a family of presets, by the part of the name before ``wXaY``.
_FAMILIES = {
    "": "closed form: rotations and error feedback below 8 bits",
    "mixed": "activations of two bit widths, chosen by their effect on the output",
    "codebook": "free levels on the 8-bit grid below 8 bits, in equal steps at 8",
    "aiqvit": "AIQViT (arXiv 2502.04628): low-rank compensation",
    "aiqvit-lsq": "AIQViT with learned activation scales",
    "ias-vit": "I&S-ViT (arXiv 2311.10126): three stages",
    "dopq-vit": "DopQ-ViT (arXiv 2408.03291): tangent Softmax codes",
    "repq-vit": "RepQ-ViT (arXiv 2212.08254)",
}


@dataclass(frozen=True)
class PresetRow:
    """What a preset does.

    Attributes:
        name: Its name.
        weights: Bits and quantizer of weights.
        activations: Bits and quantizer of activations.
        softmax: Bits and quantizer of Softmax outputs.
        learns: Whether it learns block by block, which takes longer and about 1,000 images.
        about: What is special about it.
    """

    name: str
    weights: str
    activations: str
    softmax: str
    learns: bool
    about: str


def preset_rows() -> Iterator[PresetRow]:
    """Yields a row for each of ``PRESETS``; all of them exist with other bit widths too."""
    for name in PRESETS:
        fields = preset_fields(name)
        family = name.rpartition("w")[0].removesuffix("-")
        yield PresetRow(
            name=name,
            weights=_text(fields["weight"]),
            activations=_activations(fields),
            softmax=_text(fields["post_softmax"]),
            learns=fields.get("reconstruction") is not None,
            about=_FAMILIES[family],
        )


def _activations(fields: dict[str, Any]) -> str:
    budget = fields.get("budget")
    if budget is None:
        return _text(fields["activation"])
    return f"{' or '.join(map(str, budget.activation_widths))} bits, {budget.activation_bits} on average"


def _text(spec: QuantSpec) -> str:
    return f"{spec.bits} bits" + ("" if spec.quantizer == QuantizerName.UNIFORM else f", {spec.quantizer}")
