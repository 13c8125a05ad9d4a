"""What pages of rows share: drops and differences, and where rows come from."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from equal_code import EqualCode
from paired import ERRORS_APART, Estimate, over_images_and_seeds, over_resamples
from stored_rows import Row

STALE = "†"
#: How rows of other machines differ: one recipe, one seed, the same 128 images.
MACHINE_NOISE = (
    "Machines differ too: `repq-vit-w4a4`, calibrated on the same images, read 68.5 % on one with AVX2 and 65.5 % on one with AVX-512 VNNI,\n"
    "since roundings of float32 sums fall differently. Compare rows of one machine."
)
WHAT_ERRORS_ARE = (
    "± is one standard error: over images, paired with float on the same images, and over seeds where a row has several. A seed draws the\n"
    f"calibration samples too. A difference is called one from {ERRORS_APART:.0f} errors on."
)
NOT_COMPARABLE = (
    "Shares of float accuracy are not to be compared with percentages in papers: the 650 images are easier than the validation set\n"
    "(float 80.3 % there, 72.2 % on all of it), so the same damage costs fewer points."
)


def drop(rows: Sequence[Row], base: Row | None, score: str) -> Estimate | None:
    """Returns how far the rows of a recipe, one for each seed, are below float; None if unknown.

    Without ``base`` it is minus the score itself, for scores that compare with float already.
    """
    if all(score in row.samples for row in rows) and (base is None or score in base.samples):
        own = np.array([row.samples[score] for row in rows])
        return over_images_and_seeds((np.asarray(base.samples[score]) if base else 0.0) - own)
    if all(score in row.resampled for row in rows) and base is not None and score in base.resampled:
        values = np.array([base.scores[score] - row.scores[score] for row in rows])
        resampled = np.array([np.subtract(base.resampled[score], row.resampled[score]) for row in rows])
        return over_resamples(values, resampled)
    known = [row.drops[score] for row in rows if score in row.drops]
    if len(known) < len(rows):
        return None
    values = [value for value, _ in known]
    over_images = statistics.mean(error**2 for _, error in known)
    over_seeds = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
    return Estimate(statistics.mean(values), (over_images + over_seeds) ** 0.5)


def difference(first: Sequence[Row], second: Sequence[Row], score: str) -> Estimate | None:
    """Returns how far the second recipe is below the first, on the same images and seeds.

    None if they have no samples or no seed in common.
    """
    both = {row.seed for row in first} & {row.seed for row in second}
    pairs = [([r for r in rows if r.seed in both] or list(rows)) for rows in (first, second)]
    if both and all(score in row.samples for rows in pairs for row in rows):
        upper, lower = (np.array([row.samples[score] for row in sorted(rows, key=lambda r: r.seed)]) for rows in pairs)
        return over_images_and_seeds(upper - lower) if upper.shape == lower.shape else None
    return None


def of_recipes(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each recipe, by seed."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        found.setdefault(row.recipe, []).append(row)
    return found


def same_kind(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of a recipe that may be averaged: those with provenance, if any have it."""
    return [row for row in rows if row.provenance] or list(rows)


def where_from(rows: Sequence[Row]) -> list[str]:
    """Returns the lines that say what rows were measured with, and how many rows each."""
    known = [row.provenance for row in rows if row.provenance]
    lines = []
    for title, values in (
        ("commit", [one.commit for one in known]),
        ("machine", [one.machine for one in known]),
        ("versions", [", ".join(f"{name} {version}" for name, version in one.versions.items()) for one in known]),
        ("threads", [str(one.threads) for one in known]),
    ):
        counts = Counter(values)
        if len(counts) == 1:
            lines.append(f"- {title}: {next(iter(counts))}")
        elif counts:
            lines.append(
                f"- **several {title.removesuffix('s')}s**: " + "; ".join(f"{name} ({n} rows)" for name, n in counts.items())
            )
    if missing := len(rows) - len(known):
        lines.append(f"- {missing} rows were measured before commit and machine of a row were kept")
    return lines


def equal_note(rows: Sequence[Row], known: Sequence[EqualCode]) -> list[str]:
    """Returns a line for each commit whose rows hold although the code has changed."""
    commits = {row.provenance.commit for row in rows if row.provenance}
    return [
        f"- rows of {one.since}: at {one.commit}, {len(one.recipes)} of these recipes write the same files of {' and '.join(one.networks)}, "
        "by `same_files.py`; they are not marked as stale"
        for one in known
        if one.since in commits
    ]


def stale_note(reasons: Mapping[str, str]) -> list[str]:
    """Returns the lines that explain marked rows: row -> why it is stale."""
    if not reasons:
        return []
    counts = Counter(reasons.values())
    said = "; ".join(f"{why} ({n} row{'s' * (n > 1)})" for why, n in counts.most_common())
    return ["", f"{STALE} stale: {said}."]
