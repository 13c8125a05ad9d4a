"""Cases of unusual models that do not hold yet. A case that comes to hold fails until its line is gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

#: Part of a test's id -> what it waits for.
NOT_YET = {
    "test_an_output_of_an_unusual_kind[numbers_and_shapes": "outputs that are Python numbers",
    "test_an_output_of_an_unusual_kind[a_shape": "outputs that are Python numbers",
    "however_it_travelled[deepcopy": "size guards travel",
    "however_it_travelled[saved": "size guards travel",
}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks them."""
    for item in items:
        for part, reason in NOT_YET.items():
            if "test_unusual_" in item.nodeid and part in item.nodeid:
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
