"""Tests that are left out of a quick run: ``@pytest.mark.slow``, or all but the first cases of ``@pytest.mark.slow(after=n)``."""

from __future__ import annotations

from collections import Counter

import pytest

#: Which tests run: all that are not slow, all, or those alone that a quick run leaves out.
CHOICES = ("none", "all", "only")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", choices=CHOICES, default="none", help="slow tests: leave them out, run them too, or run no others"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    choice, cases = config.getoption("--slow"), Counter[str]()
    slow = {id(item) for item in items if _is_slow(item, cases)}
    if choice == "all" or (choice == "none" and _names_a_test(config)):
        return
    left_out = [item for item in items if (id(item) in slow) == (choice == "none")]
    items[:] = [item for item in items if (id(item) in slow) != (choice == "none")]
    config.hook.pytest_deselected(items=left_out)


def _is_slow(item: pytest.Item, cases: Counter[str]) -> bool:
    marker = item.get_closest_marker("slow")
    if marker is None:
        return False
    function = item.nodeid.partition("[")[0]
    cases[function] += 1
    return cases[function] > marker.kwargs.get("after", 0)


def _names_a_test(config: pytest.Config) -> bool:
    """Tells whether somebody asks for one test by its name: it runs, slow or not."""
    return any("::" in argument for argument in config.args)
