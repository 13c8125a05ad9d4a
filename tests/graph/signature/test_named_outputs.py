"""Outputs that stand in for another library's class."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.utils._pytree as pytree

from qpass.graph.signature.named_outputs import NamedOutputs


def outputs() -> NamedOutputs:
    return NamedOutputs({"logits": torch.ones(2), "hidden": torch.zeros(3)}, ["loss"])


def test_fields_are_read_by_name_key_and_position() -> None:
    found = outputs()
    assert found.logits is found["logits"] is found[0] is found.to_tuple()[0]
    assert found[-1] is found.hidden
    assert len(found[:2]) == 2
    assert found.loss is None
    assert "loss" not in found
    assert list(found) == ["logits", "hidden"]
    with pytest.raises(AttributeError, match="no field 'logit': they are logits, hidden"):
        _ = found.logit


def test_a_field_is_written_by_name() -> None:
    found = outputs()
    found.logits = torch.full((2,), 7.0)
    assert found["logits"].tolist() == [7, 7]


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found)), lambda found: pytree.tree_map(torch.clone, found)],
    ids=["copied", "pickled", "mapped"],
)
def test_copies_keep_their_class_and_what_was_none(again: object) -> None:
    found = again(outputs())  # type: ignore[operator]
    assert type(found) is NamedOutputs
    assert found.loss is None
    assert torch.equal(found.logits, torch.ones(2))
