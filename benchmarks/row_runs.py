"""Which rows are missing or stale, and measuring them: several processes share the rows out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import click
from recipes import Recipe
from stored_rows import Row, RowStore


@dataclass(frozen=True)
class Pending:
    """A row to measure.

    Attributes:
        table: Name of its ``RowStore``.
        recipe: What it measures.
        seed: Of what is drawn at random.
        before: The row so far.
        why: Missing, or what has changed.
    """

    table: str
    recipe: Recipe
    seed: int
    before: Row | None
    why: str

    def __str__(self) -> str:
        return f"{self.table:<12} {self.recipe.name:<40} seed {self.seed}  {self.why}"


def pending(table: str, wanted: Iterable[tuple[Recipe, int]], *, only_stale: bool, fresh: bool) -> Iterator[Pending]:
    """Yields rows that are missing or stale.

    Args:
        table: Name of their ``RowStore``.
        wanted: Recipes and seeds.
        only_stale: Leave out those that are missing.
        fresh: Yield all.
    """
    store = RowStore(table)
    known, history = store.read(), store.history()
    for recipe, seed in wanted:
        row = known.get((recipe.name, seed))
        reason = "missing" if row is None else history.why_stale(row, recipe.digest)
        if fresh or (reason and not (only_stale and row is None)):
            yield Pending(table, recipe, seed, row, reason or "measured again")


def run(rows: Iterable[Pending], measure: Callable[[Pending], Row]) -> None:
    """Measures rows that no other process on this machine measures, and stores each.

    Raises:
        click.ClickException: After all others, if some could not be measured.
    """
    failed: list[str] = []
    for row in rows:
        store, key = RowStore(row.table), (row.recipe.name, row.seed)
        with store.claimed(key) as mine:
            if not mine or store.read().get(key) != row.before:
                continue  # another process measures it, or has done so since the rows were listed
            try:
                found = measure(row)
            except Exception:  # one recipe that a network cannot have, or a fault, must not cost the others
                failed.append(str(row))
                click.echo(f"{row}:\n{traceback.format_exc()}", err=True)
                continue
            store.put(found)
            scores = ", ".join(f"{name} {value:.2f}" for name, value in found.scores.items())
            click.echo(f"{row.table}, {found.recipe}, seed {found.seed}: {scores}; {found.total_seconds:.0f} s")
    if failed:
        raise click.ClickException("not measured:\n" + "\n".join(failed))
