"""Writes the pages of accuracy.py: all networks, each network, and the tables of parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import methods
from networks import NETWORKS
from paired import Estimate
from recipes import FLOAT, TABLES, Table, all_recipes, main_table, shown
from stored_rows import RowStore
from table_text import (
    MACHINE_NOISE,
    NOT_COMPARABLE,
    STALE,
    WHAT_ERRORS_ARE,
    drop,
    equal_note,
    of_recipes,
    same_kind,
    stale_note,
    where_from,
)
from task import Network

from qpass.runtime.atomic_write import write_whole


class Measured:
    """The stored rows of a network, and which of them are stale."""

    def __init__(self, name: str) -> None:
        self.name, self.network, store = name, NETWORKS[name], RowStore(name)
        history = store.history()
        self.equal = history.equal
        settings = {recipe.name: recipe.digest for recipe in all_recipes(name)}
        everything = of_recipes(row for row in store.read().values() if row.recipe in settings)
        self.rows = {recipe: same_kind(rows) for recipe, rows in everything.items()}
        self.base = next(iter(self.rows.get(FLOAT, ())), None)
        self.stale = {
            recipe: why
            for recipe, rows in self.rows.items()
            if (why := next(filter(None, (history.why_stale(row, settings[recipe]) for row in rows)), ""))
        }

    def shown(self, recipe: str) -> str:
        """Returns the name of a recipe, with how long it learned."""
        schedules = [row.schedule for row in self.rows.get(recipe, ()) if row.schedule]
        return shown(recipe, schedules[0] if schedules else "")

    def below(self, recipe: str) -> Estimate | None:
        """Returns how far a recipe is below float; see ``drop``."""
        rows = self.rows.get(recipe)
        return drop(rows, None if self.network.against_float else self.base, self.network.score) if rows else None

    def cell(self, recipe: str) -> str:
        """Returns the entry of a table: the drop, or the score against float."""
        found = self.below(recipe)
        if found is None:
            return ""
        shown = found._replace(value=-found.value) if self.network.against_float else found
        value = shown.text(1 if self.network.against_float or self.network.unit == "%" else 2)
        wrong = "" if all(row.verified for row in self.rows[recipe]) else ", **not verified**"
        return f"{value}{wrong}{STALE if recipe in self.stale else ''}"


def write(results: Path) -> None:
    """Writes every page that has rows."""
    measured = {name: Measured(name) for name in NETWORKS}
    for name, one in measured.items():
        if one.rows:
            _save(results / f"accuracy_{name.replace('-', '_')}.md", network_page(one))
    for name, table in TABLES.items():
        if any(
            recipe.name in measured[table.network].rows
            for recipe in table.make().values()
            if recipe.name not in main_table(table.network)
        ):
            _save(results / f"{name.replace('-', '_')}.md", parts_page(name, table, measured[table.network]))
    _save(results / "accuracy.md", overview(measured))
    methods.write(results, measured["deit-tiny"])


def _save(path: Path, lines: Iterator[str]) -> None:
    write_whole(path, "\n".join(lines).rstrip() + "\n")


def overview(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yields the page of all networks."""
    yield "# Accuracy"
    yield ""
    yield "Written by `python benchmarks/accuracy.py`. Every figure is measured through onnxruntime on the exported file, and every file was verified"
    yield "against the graph. The networks were trained by others and are of different kinds; each has a page with all columns:"
    pages = {one.network.title: f"accuracy_{name.replace('-', '_')}.md" for name, one in measured.items() if one.rows}
    yield ", ".join(f"[{title}]({page})" for title, page in pages.items()) + "."
    yield ""
    yield WHAT_ERRORS_ARE
    yield ""
    yield MACHINE_NOISE
    yield ""
    yield "| recipe | " + " | ".join(f"{one.network.title}: {_what(one.network)}" for one in measured.values()) + " |"
    yield "|---" * (1 + len(measured)) + "|"
    yield "| float | " + " | ".join(_of_float(one) for one in measured.values()) + " |"
    everything = {name: None for network in measured for name in main_table(network)}
    for recipe in everything:
        if recipe != FLOAT and any(recipe in one.rows for one in measured.values()):
            labels = {one.shown(recipe) for one in measured.values() if recipe in one.rows}
            yield f"| {max(labels, key=len)} | " + " | ".join(one.cell(recipe) for one in measured.values()) + " |"
    yield from stale_note({f"{one.name} {recipe}": why for one in measured.values() for recipe, why in one.stale.items()})
    yield ""
    yield from _networks(measured)
    yield ""
    yield "## Where the rows come from"
    yield ""
    rows = [row for one in measured.values() for rows in one.rows.values() for row in rows]
    yield from where_from(rows)
    yield from equal_note(rows, next(iter(measured.values())).equal)


def _what(network: Network) -> str:
    if network.against_float:
        return f"{network.score}, {network.unit}, more is better"
    return f"{'points' if network.unit == '%' else network.unit} of {network.score} below float"


def _of_float(one: Measured) -> str:
    if one.network.against_float or one.base is None:
        return ""
    return f"{one.base.scores[one.network.score]:.2f} {one.network.unit}"


def _networks(measured: Mapping[str, Measured]) -> Iterator[str]:
    yield "## Networks"
    yield ""
    for one in measured.values():
        yield f"- {one.network.description} {_counts(one)}".rstrip()


def _counts(one: Measured) -> str:
    """Returns how many samples calibrate and evaluate, as the rows say."""
    rows = [row for rows in one.rows.values() for row in rows]
    evaluated = sorted({len(row.samples[one.network.score]) for row in rows if row.samples})
    calibrated = sorted({row.drawn.count for row in rows if row.drawn and row.provenance})
    said = [
        *([f"{' or '.join(map(str, calibrated))} samples calibrate"] if calibrated else []),
        *([f"{' or '.join(map(str, evaluated))} evaluate"] if evaluated else []),
    ]
    return f"({', '.join(said)})" if said else ""


def network_page(one: Measured) -> Iterator[str]:
    """Yields the page of one network."""
    yield f"# Accuracy: {one.network.title}"
    yield ""
    yield f"Written by `python benchmarks/accuracy.py --network {one.name}`."
    yield f"{one.network.description} {_counts(one)}".rstrip()
    yield ""
    yield WHAT_ERRORS_ARE
    if one.network.title == "DeiT-T":
        yield NOT_COMPARABLE
        yield ""
        yield MACHINE_NOISE
    yield ""
    yield from table_of_rows(one, {name: name for name in main_table(one.name) if name != FLOAT})


def parts_page(name: str, table: Table, one: Measured) -> Iterator[str]:
    """Yields a page of parts of a recipe."""
    yield f"# {table.title}"
    yield ""
    yield f"Written by `python benchmarks/accuracy.py --table {name}`."
    yield one.network.description
    yield table.note
    yield ""
    yield WHAT_ERRORS_ARE
    yield ""
    yield from table_of_rows(one, {label: recipe.name for label, recipe in table.make().items()})


def table_of_rows(one: Measured, labels: Mapping[str, str]) -> Iterator[str]:
    """Yields a table with all columns, and where its rows come from: label -> recipe."""
    network, found = one.network, {label: recipe for label, recipe in labels.items() if recipe in one.rows}
    if one.base is not None and not network.against_float:
        float_score = drop([one.base], None, network.score)
        error = f" ± {float_score.error:.2f}" if float_score else ""
        yield f"Float: {one.base.scores[network.score]:.2f}{error} {network.unit} ({one.base.file_mb:.2f} MB)."
        yield ""
    kept = network.unit == "%"
    columns = [
        _what(network).removesuffix(", more is better"), *(["kept"] if kept else []), f"{network.score}, {network.unit}", "graph in torch",
        "activation bits", "wider", "seeds", "calibrated on", "file", "of float", "verified", "quantized in", "commit", "machine",
    ]  # fmt: skip
    machines = sorted({row.provenance.machine for recipe in found.values() for row in one.rows[recipe] if row.provenance})
    yield f"| recipe | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for label, recipe in found.items():
        name = one.shown(recipe) if label == recipe else shown(label, one.rows[recipe][0].schedule)
        yield f"| {name} | {' | '.join(_cells(one, recipe, machines, kept))} |"
    yield from stale_note({recipe: why for recipe, why in one.stale.items() if recipe in found.values()})
    yield ""
    if len(machines) > 1:
        yield "Machines: " + "; ".join(f"{chr(ord('A') + n)} is {name}" for n, name in enumerate(machines)) + "."
        yield ""
    rows = [row for recipe in found.values() for row in one.rows[recipe]]
    yield from where_from(rows)
    yield from equal_note(rows, one.equal)


def _cells(one: Measured, recipe: str, machines: Sequence[str], kept: bool) -> Iterator[str]:
    rows, score = one.rows[recipe], one.network.score
    mean = sum(row.scores[score] for row in rows) / len(rows)
    yield one.cell(recipe)
    if kept:
        yield f"{100 * mean / one.base.scores[score]:.1f} %" if one.base else ""
    yield f"{mean:.2f}"
    in_torch = [row.in_torch[score] for row in rows if score in row.in_torch]
    yield f"{sum(in_torch) / len(in_torch):.2f}" if in_torch else ""
    yield f"{rows[0].activation_bits:.2f}" if rows[0].activation_bits else ""
    yield ", ".join(sorted({row.wider_activations for row in rows}))
    yield str(len(rows)) if len(rows) > 1 else f"seed {rows[0].seed}"
    yield ", ".join(sorted({f"{row.drawn.count} of {row.drawn.of}" for row in rows if row.drawn}))
    yield f"{rows[0].file_mb:.2f} MB"
    yield f"{100 * rows[0].file_mb / one.base.file_mb:.1f} %" if one.base else ""
    yield "yes" if all(row.verified for row in rows) else "**no**"
    yield f"{sum(row.quantize_seconds for row in rows) / len(rows):.0f} s"
    known = [row.provenance for row in rows if row.provenance]
    yield ", ".join(sorted({one.commit for one in known})) or "not kept"
    where = {one.machine: chr(ord("A") + machines.index(one.machine)) if len(machines) > 1 else one.machine for one in known}
    yield ", ".join(sorted(where.values()))
