"""The digest of code changes with what the code does, and with nothing else."""

from __future__ import annotations

import provenance
import pytest

CODE = '''
def double(x: int, by: float = 2.0) -> int:
    """Doubles."""
    if x < 0:
        raise ValueError("below zero")
    return x * by
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""Doubles."""', '"""Returns twice a number."""'),
        ('"below zero"', '"less than zero"'),
        ("x: int, by", "x: float, by"),
        (" -> int", ""),
        ("return x * by", "# twice\n    return (x *\n            by)"),
    ],
)
def test_prose_and_layout_do_not_count(before: str, after: str) -> None:
    assert before in CODE
    assert provenance.digest_of_code(CODE.replace(before, after)) == provenance.digest_of_code(CODE)


@pytest.mark.parametrize(("before", "after"), [("2.0", "3.0"), ("x * by", "x + by"), ("x < 0", "x <= 0"), ("double", "twice")])
def test_what_is_computed_counts(before: str, after: str) -> None:
    assert before in CODE
    assert provenance.digest_of_code(CODE.replace(before, after)) != provenance.digest_of_code(CODE)


def test_learning_counts_for_rows_that_learn() -> None:
    closed_form, learned = provenance.sources(False), provenance.sources(True, ["task.py"])
    assert "qpass/passes/freeze.py" in closed_form
    assert not any("reconstruction" in name or "/cli/" in name or "/report/" in name for name in closed_form)
    assert {"qpass/reconstruction/learner.py", "benchmarks/task.py"} <= learned.keys()
    assert provenance.changed(learned) == []
