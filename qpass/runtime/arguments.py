"""Validation of run arguments before any work is done."""

from __future__ import annotations

import torch

from qpass.errors import ConfigError

#: One more than the largest seed. Each block and layer is seeded by a small multiple of the seed.
SEEDS = 2**32


def usable_device(device: torch.device | str | int) -> torch.device:
    """Returns a device on which tensors can be allocated.

    Raises:
        ConfigError: If torch does not know the device, this machine does not have it, or it holds no
            values (``"meta"``).
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
    """Returns whether a value is a number of one of these types; a bool does not count as an int."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def check_seed(seed: int) -> None:
    """Checks a random seed.

    Raises:
        ConfigError: If it is not an integer from 0 to 2**32 - 1.
    """
    if not is_number(seed, int) or not 0 <= seed < SEEDS:
        raise ConfigError(f"got {seed!r}", where="seed", expected=f"an integer from 0 to {SEEDS - 1}")
