"""Recipes drawn at random."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: Learning at a length that shows that it runs.
_FEW_STEPS = {"steps": 2, "batch_size": 4}
_ONE_RANK = {**_FEW_STEPS, "ranks": [2], "search_steps": 0}


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Returns recipes of every family at any width, with parts switched on and off."""
    bits = st.integers(2, 8)
    width = f"w{draw(bits)}a{draw(bits)}"
    family = draw(st.sampled_from(["", "", "repq-vit-", "ias-vit-", "dopq-vit-", "aiqvit-"]))
    recipe: dict[str, Any] = {"preset": family + width}
    if family == "aiqvit-":
        return recipe | {"reconstruction": _ONE_RANK}
    if family in ("ias-vit-", "dopq-vit-"):
        return recipe | {"reconstruction": _FEW_STEPS}
    if family == "":
        parts: dict[str, list[Any]] = {
            "rotate_heads": [True, False],
            "rotate_residual": [True, False],
            "compensate_activations": [True, False],
            "weight_rounding": ["nearest", "error-feedback"],
            "token_weights": ["equal", "hessian"],
            "calibrate_on": ["float", "quantized"],
            "fold_layer_norm": ["mean", "median", None],
            "budget": [None, {"weight_bits": 6}],
            "rules": [{}, {"head": None}, {"*.attn*": {"weight": {"bits": 3}}}, {"blocks.0*": {"activation": None}}],
        }
        for name, choices in parts.items():
            if draw(st.booleans()):
                recipe[name] = draw(st.sampled_from(choices))
    return recipe
