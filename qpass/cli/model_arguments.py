"""The option ``--model-arg``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpass.errors import ConfigError


def named_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns ``name=value`` arguments as a mapping; values are parsed as YAML.

    Raises:
        ConfigError: If one is not of this form.
    """
    import yaml

    found = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.isidentifier():
            raise ConfigError(f"got {argument!r}", where="--model-arg", expected="NAME=VALUE, such as img_size=384")
    return found
