"""Tables of recipes: valid names, and parts that are added one by one."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from readme import CHOICES
from recipes import CLOSED_FORM, LEARNED, TABLES, Recipe, aiqvit_ablation, closed_form, main_table, settings_of, shown

from qpass.config import QuantConfig


def differing(first: QuantConfig, second: QuantConfig) -> list[str]:
    names = [field.name for field in dataclasses.fields(QuantConfig) if field.name != "name"]
    return [name for name in names if getattr(first, name) != getattr(second, name)]


def test_each_plus_adds_one_part() -> None:
    rows = list(closed_form().items())
    added = {}
    for (_, above), (label, row) in itertools.pairwise(rows):
        if " + " in label:
            added[label] = differing(above.config, row.config)
    assert {len(fields) for fields in added.values()} == {1}, added
    for width in ("w4a8", "w4a4", "w3a3"):
        fields = [field for label, (field,) in added.items() if label.startswith(f"{width} + ")]
        assert len(set(fields)) == len(fields) >= 4, "no part is added twice"


def test_leaving_out_takes_one_part_from_the_last_row() -> None:
    rows = closed_form()
    for width in ("w4a8", "w4a4", "w3a3"):
        whole = [row for label, row in rows.items() if label.startswith(f"{width} + ")][-1]
        left_out = [row for label, row in rows.items() if label.startswith(f"{width}, all without")]
        assert left_out
        assert all(len(differing(whole.config, row.config)) == 1 for row in left_out)


def test_rows_of_an_ablation_have_the_same_images_and_seeds() -> None:
    for table in (closed_form(), aiqvit_ablation()):
        assert len({(row.images, row.seeds) for row in table.values()}) == 1


def test_every_recipe_is_valid_and_said_once() -> None:
    names = [*CLOSED_FORM, *LEARNED]
    assert len(set(names)) == len(names)
    assert set(CHOICES) <= set(names)
    assert len(CHOICES) <= 10
    for name in names:
        recipe = Recipe(name, settings_of(name))
        assert recipe.learns == (name in LEARNED), name
        assert bool(recipe.schedule) == recipe.learns


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w8a8", "w8a8"),
        ("aiqvit-w4a4", "aiqvit-w4a4 (quick, 460 of 8,000 steps)"),
        ("dopq-vit-w6a6", "dopq-vit-w6a6 (quick, 80 of 400 steps)"),
        ("ias-vit-w3a3", "ias-vit-w3a3 (quick, 400 of 2,000 steps)"),
        ("w4a8, polish quick", "w4a8 (polish quick, 120 steps)"),
    ],
)
def test_a_row_says_how_long_it_learns(name: str, said: str) -> None:
    assert shown(name, Recipe(name, settings_of(name)).schedule) == said


def test_a_recipe_that_changes_has_another_digest() -> None:
    one = Recipe("a", {"preset": "w4a4"})
    assert one.digest == Recipe("b", "w4a4").digest
    assert one.digest != Recipe("a", {"preset": "w4a4", "rotate_heads": not one.config.rotate_heads}).digest
    assert one.digest != Recipe("a", "w4a4", images=256).digest


def test_one_name_has_one_recipe_on_every_page() -> None:
    for network in ("deit-tiny", "ngswin"):
        known = {name: row.digest for name, row in main_table(network).items()}
        for table in TABLES.values():
            if table.network == network:
                for row in table.make().values():
                    assert known.setdefault(row.name, row.digest) == row.digest
