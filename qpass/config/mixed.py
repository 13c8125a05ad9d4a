"""Names of recipes with mixed activation bit widths, which were called ``wXaY`` before."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

#: A recipe of ours below 8 bits of activations, perhaps with what it learns afterwards.
_NARROW = re.compile(r"w([2-8])a([2-6])(, .*)?")

#: Recipes that this process has warned about.
_warned: list[str] = []


def mixed_name(name: str) -> str | None:
    """Returns the present name of the recipe that was called ``name`` before; None if it keeps its name.

    Activations of ``wXaY`` had Y or 8 bits, Y + 1 on average. The present name says this average.
    """
    found = _NARROW.fullmatch(name)
    return None if found is None else f"mixed-w{found[1]}a{int(found[2]) + 1}{found[3] or ''}"


def warn_of_new_meaning(name: str, changes: Mapping[str, Any]) -> None:
    """Warns, once per process, that ``wXaY`` has Y bits everywhere. To be removed in version 0.2.

    A config that says how many bits activations have on average, or has ``budget: null``, means the
    same as before.

    Args:
        name: Name of a preset.
        changes: The other fields of the config.
    """
    before, budget = mixed_name(name), changes.get("budget", {})
    if before is None or _warned or not isinstance(budget, Mapping) or "activation_bits" in budget:
        return
    _warned.append(name)
    bits = _bits(name)
    warnings.warn(
        f"{name!r} now has {bits} bits everywhere but at the network's input; the recipe of before, with activations of {bits}"
        f" or 8 bits, is {before!r}",
        stacklevel=4,
    )


def truthful_name(config: Mapping[str, Any]) -> str:
    """Returns the present name of a recipe, given its plain data (``QuantConfig.to_dict``).

    Files of earlier versions call ``wXaY`` what is called ``mixed-wXaZ`` now.
    """
    name: str = config["name"]
    before, budget = mixed_name(name), config.get("budget")
    if before is None or not isinstance(budget, Mapping):
        return name
    bits = _bits(name)
    given = budget.get("activation_bits"), budget.get("activation_widths")
    return before if given == (bits + 1, [bits, 8]) else name


def _bits(name: str) -> int:
    found = _NARROW.fullmatch(name)
    assert found is not None
    return int(found[2])
