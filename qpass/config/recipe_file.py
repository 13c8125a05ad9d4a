"""Reads recipes from YAML without running code; rejects duplicate keys and exploding aliases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qpass.errors import ConfigError

#: Maximum number of values in a file, with aliases expanded.
LARGEST_RECIPE = 100_000


def read_recipe(path: Path) -> dict[Any, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        ConfigError: If the file cannot be read, is not a mapping, repeats a key, or its aliases expand
            beyond ``LARGEST_RECIPE`` values.
    """
    try:
        content = path.read_text(encoding="utf-8")
        root = yaml.compose(content, yaml.SafeLoader)
        if _expanded_size(root, {}) > LARGEST_RECIPE:
            raise ConfigError("its aliases expand to too many values", where=str(path), expected="a recipe")
        for key in _repeated_keys(root):
            raise ConfigError(f"has the key {key!r} twice", where=str(path), expected="each key of a mapping once")
        data = yaml.safe_load(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError("holds no mapping", where=str(path), expected="keys such as 'preset' and 'rules'")
    return data


def _expanded_size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Returns the number of values in a YAML node with all aliases expanded."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_RECIPE + 1  # a node that contains itself
        known[id(node)] = 1 + sum(_expanded_size(item, known) for item in _children(node))
    return known[id(node)]


def _children(node: yaml.CollectionNode) -> list[yaml.Node]:
    return [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else list(node.value)


def _repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yields repeated keys of mappings, of which YAML would keep the last.

    Aliases cannot recurse forever, because the expanded size is bounded.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        yield from (key for index, key in enumerate(keys) if key in keys[:index])
    for child in _children(node):
        yield from _repeated_keys(child)
