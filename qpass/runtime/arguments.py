"""Arguments of a run that are refused before any work is done."""

from __future__ import annotations

import torch

from qpass.errors import ConfigError

#: One more than the largest seed: what is drawn for a block or a layer is seeded by a small multiple of it.
SEEDS = 2**32


def usable_device(device: torch.device | str | int) -> torch.device:
    """Returns a device that tensors can be put on.

    Raises:
        ConfigError: If torch knows no such device, this machine has none, or it holds no values (``"meta"``).
    """
    expected = "a device that torch has here, such as cpu or cuda"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # a build without CUDA raises AssertionError
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{device!r} cannot be used: {reason}", where="device", expected=expected) from error
    if found.type == "meta":
        raise ConfigError("'meta' holds no values", where="device", expected=expected)
    return found


def is_number(value: object, *kinds: type) -> bool:
    """Tells whether a value is a number of one of these kinds; a bool, which Python takes for an int, is none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def check_seed(seed: int) -> None:
    """Refuses what is no seed.

    Raises:
        ConfigError: If it is not an integer from 0 to 2**32 - 1.
    """
    if not is_number(seed, int) or not 0 <= seed < SEEDS:
        raise ConfigError(f"got {seed!r}", where="seed", expected=f"an integer from 0 to {SEEDS - 1}")
