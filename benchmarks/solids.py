"""Point clouds of composed solids with labelled parts, drawn from a seed: no downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

POINTS = 256
#: Kinds of objects and their parts; parts are numbered over all kinds in this order.
KINDS = {
    "table": ("top", "legs"),
    "lamp": ("foot", "pole", "shade"),
    "mug": ("body", "handle"),
    "rocket": ("hull", "nose", "fins"),
}
PARTS_OF = {
    kind: tuple(
        range(sum(len(parts) for parts in list(KINDS.values())[:index]), sum(len(p) for p in list(KINDS.values())[: index + 1]))
    )
    for index, kind in enumerate(KINDS)
}
_Surface = tuple[np.ndarray, np.ndarray]


def make(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns a cloud (POINTS, 6) of coordinates in the unit sphere and normals, its parts, its kind."""
    rng = np.random.default_rng(seed)
    kind = int(rng.integers(len(KINDS)))
    name = list(KINDS)[kind]
    surfaces = _BUILDERS[name](rng)
    share = rng.dirichlet(np.full(len(surfaces), 12.0))
    counts = np.maximum(8, np.floor(share * POINTS)).astype(int)
    counts[counts.argmax()] += POINTS - counts.sum()
    chosen = [_pick(rng, surface, count) for surface, count in zip(surfaces, counts, strict=True)]
    xyz, normals = (np.concatenate([cloud[side] for cloud in chosen]) for side in (0, 1))
    labels = np.repeat(PARTS_OF[name], counts)
    turn = _turn(rng)
    xyz, normals = xyz @ turn.T + rng.normal(0, 0.01, xyz.shape), normals @ turn.T
    xyz -= xyz.mean(0)
    xyz /= np.linalg.norm(xyz, axis=1).max()
    order = rng.permutation(POINTS)
    return np.concatenate([xyz, normals], 1)[order].astype(np.float32), labels[order], kind


def _turn(rng: np.random.Generator) -> np.ndarray:
    """Returns a rotation about the vertical axis, tilted a little."""
    a, b = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15)
    around = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return around @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])


def _pick(rng: np.random.Generator, surface: _Surface, count: int) -> _Surface:
    index = rng.integers(len(surface[0]), size=count)
    return surface[0][index], surface[1][index]


def _box(rng: np.random.Generator, centre: tuple[float, float, float], size: tuple[float, float, float]) -> _Surface:
    """Returns points on a box."""
    n, half = 400, np.array(size) / 2
    areas = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    axis = rng.choice(3, n, p=areas / areas.sum())
    sign = rng.choice([-1.0, 1.0], n)
    points, normals = rng.uniform(-1, 1, (n, 3)), np.zeros((n, 3))
    points[np.arange(n), axis], normals[np.arange(n), axis] = sign, sign
    return points * half + centre, normals


def _cone(rng: np.random.Generator, low: float, high: float, below: float, above: float) -> _Surface:
    """Returns points on a cone around the vertical axis, ``below`` and ``above`` its radii at its ends."""
    n = 400
    t, angle = rng.random(n), rng.uniform(0, 2 * np.pi, n)
    radius = below + (above - below) * t
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), low + (high - low) * t], 1)
    normals = np.stack([np.cos(angle), np.sin(angle), np.full(n, (below - above) / (high - low))], 1)
    return points, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _torus(rng: np.random.Generator, centre: tuple[float, float, float], radius: float, tube: float) -> _Surface:
    """Returns points on a ring that stands upright."""
    n = 400
    u, v = rng.uniform(0, 2 * np.pi, (2, n))
    normals = np.stack([np.cos(v) * np.cos(u), np.sin(v), np.cos(v) * np.sin(u)], 1)
    ring = radius * np.stack([np.cos(u), np.zeros(n), np.sin(u)], 1)
    return ring + tube * normals + centre, normals


def _join(*surfaces: _Surface) -> _Surface:
    return np.concatenate([s[0] for s in surfaces]), np.concatenate([s[1] for s in surfaces])


def _table(rng: np.random.Generator) -> list[_Surface]:
    x, y, height, leg = rng.uniform(0.7, 1.4), rng.uniform(0.5, 1), rng.uniform(0.4, 1.1), rng.uniform(0.05, 0.12)
    corners = [(sx * (x - leg) / 2, sy * (y - leg) / 2, height / 2) for sx in (-1, 1) for sy in (-1, 1)]
    return [
        _box(rng, (0, 0, height), (x, y, rng.uniform(0.05, 0.15))),
        _join(*(_box(rng, c, (leg, leg, height)) for c in corners)),
    ]


def _lamp(rng: np.random.Generator) -> list[_Surface]:
    height, wide = rng.uniform(0.7, 1.3), rng.uniform(0.25, 0.5)
    foot = _cone(rng, 0, rng.uniform(0.04, 0.15), rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.2))
    return [
        foot,
        _cone(rng, 0.1, height, 0.03, 0.03),
        _cone(rng, height - 0.15, height + 0.3, wide, wide * rng.uniform(0.3, 0.9)),
    ]


def _mug(rng: np.random.Generator) -> list[_Surface]:
    radius, height = rng.uniform(0.3, 0.5), rng.uniform(0.5, 1)
    handle = _torus(rng, (radius, 0, height / 2), height * rng.uniform(0.2, 0.35), rng.uniform(0.03, 0.07))
    outside = handle[0][:, 0] ** 2 + handle[0][:, 1] ** 2 > radius**2
    return [_cone(rng, 0, height, radius, radius * rng.uniform(0.8, 1.2)), (handle[0][outside], handle[1][outside])]


def _rocket(rng: np.random.Generator) -> list[_Surface]:
    radius, height = rng.uniform(0.12, 0.25), rng.uniform(0.8, 1.4)
    reach = rng.uniform(0.15, 0.3)
    fins = [
        _box(rng, (s * (radius + reach / 2), 0, 0.15), (reach, 0.03, 0.3)) if flat
        else _box(rng, (0, s * (radius + reach / 2), 0.15), (0.03, reach, 0.3))
        for s in (-1, 1) for flat in (True, False)
    ]  # fmt: skip
    return [
        _cone(rng, 0, height, radius, radius),
        _cone(rng, height, height + rng.uniform(0.2, 0.5), radius, 0.01),
        _join(*fins),
    ]


_BUILDERS: dict[str, Callable[[np.random.Generator], list[_Surface]]] = {
    "table": _table,
    "lamp": _lamp,
    "mug": _mug,
    "rocket": _rocket,
}


def write_shapenet_part(folder: Path, count: int, seed: int) -> Path:
    """Writes ``count`` clouds, from ``seed`` on, like ShapeNetPart; returns the folder.

    A folder for each kind, with a text file for each object: x y z nx ny nz part, one line a point.
    ``synsetoffset2category.txt`` names the kinds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{kind}\t{index:08d}" for index, kind in enumerate(KINDS)]
    (folder / "synsetoffset2category.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for index in range(count):
        cloud, labels, kind = make(seed + index)
        place = folder / f"{kind:08d}"
        place.mkdir(exist_ok=True)
        np.savetxt(place / f"{index:06d}.txt", np.concatenate([cloud, labels[:, None]], 1), fmt="%.6f")
    return folder
