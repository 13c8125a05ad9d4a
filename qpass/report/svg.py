"""A chart as SVG text: axes, and marks that name themselves when the mouse is over them.

Colours are classes, which the page's style sheet defines for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

#: Pixels around the plotted area: left for numbers and the axis' title, and below for the same.
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
WIDTH = 940
#: Most labels of an axis.
_TICKS = 6
#: Largest magnitude that an axis shows, and characters of a label.
_GREATEST, _LABEL = 1e290, 32


@dataclass(frozen=True)
class Scale:
    """Maps values to 0 (low) to 1 (high).

    Attributes:
        low: Value at 0.
        high: Value at 1.
        kind: ``"linear"``, ``"log"``, or ``"symlog"``, which is linear from -1 to 1.
    """

    low: float
    high: float
    kind: str = "linear"

    @classmethod
    def over(cls, values: Iterable[float], kind: str = "linear", *, margin: float = 0.05) -> Scale:
        """Returns the scale that shows all finite values, with a margin on both sides."""
        finite = [value for value in values if math.isfinite(value) and (kind != "log" or value > 0)] or [1.0]
        finite = [min(_GREATEST, max(1 / _GREATEST if kind == "log" else -_GREATEST, value)) for value in finite]
        forward = _FORWARD[kind]
        low, high = forward(min(finite)), forward(max(finite))
        space = margin * (high - low) or max(0.5, 0.05 * abs(high))
        return cls(low - space, high + space, kind)

    @classmethod
    def from_zero(cls, values: Iterable[float]) -> Scale:
        """Returns the linear scale from 0 that shows all finite values, with a margin above."""
        greatest = max((value for value in values if math.isfinite(value)), default=0.0)
        return cls(0.0, min(_GREATEST, 1.08 * greatest if greatest > 0 else 1.0))

    def __call__(self, value: float) -> float:
        """Returns the place of a value; what lies outside is moved to the edge."""
        if math.isnan(value) or (self.kind == "log" and value <= 0):
            return 0.0
        return min(1.0, max(0.0, (_FORWARD[self.kind](value) - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """Returns round values to label."""
        if self.kind == "linear":
            return _round_values(self.low, self.high)
        if self.kind == "symlog":
            powers = range(math.ceil(max(abs(self.low), abs(self.high))))
            step = max(1, math.ceil(2 * len(powers) / _TICKS))
            return self._inside([0.0, *(sign * 10.0**power for power in powers[::step] for sign in (1, -1))])
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        step = max(1, math.ceil(len(powers) / _TICKS))
        values = self._inside([10.0**power for power in powers[::step]])
        return values if len(values) > 1 else self._inside([factor * 10.0**power for power in powers for factor in (1, 2, 5)])

    def _inside(self, values: Iterable[float]) -> list[float]:
        return sorted(value for value in values if self.low <= _FORWARD[self.kind](value) <= self.high)


def _symlog(value: float) -> float:
    """Linear from -1 to 1, which takes as much space as the step from 1 to 10."""
    return value if abs(value) <= 1 else math.copysign(1 + math.log10(abs(value)), value)


_FORWARD: dict[str, Callable[[float], float]] = {"linear": float, "log": math.log10, "symlog": _symlog}


def _round_values(low: float, high: float) -> list[float]:
    rough = max((high - low) / _TICKS, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step)
    return [(first + index) * step for index in range(int((high - first * step) / step + 1e-9) + 1)]


class Chart:
    """Collects the marks of one chart.

    Args:
        x: Scale of the horizontal axis.
        y: Scale of the vertical axis.
        height: Height in pixels.
        width: Width in pixels.
        left: Pixels left of the plotted area.
    """

    def __init__(self, x: Scale, y: Scale, *, height: int, width: int = WIDTH, left: int = LEFT, bottom: int = BOTTOM) -> None:
        self.x, self.y, self.height, self.width, self.left, self.bottom = x, y, height, width, left, bottom
        self._parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixels of a point."""
        across, up = self.width - self.left - RIGHT, self.height - TOP - self.bottom
        return self.left + across * self.x(x), self.height - self.bottom - up * self.y(y)

    def point(self, x: float, y: float, kind: str, title: str) -> None:
        """Adds a point; the invisible circle around it is easier to hit."""
        px, py = self.at(x, y)
        place = f'cx="{px:.1f}" cy="{py:.1f}"'
        self._mark(f'<circle {place} r="9" class="hit"/><circle {place} r="3.6" class="dot {kind}"/>', title)

    def span(self, x: float, low: float, high: float, kind: str, title: str = "", *, width: float = 3) -> None:
        """Adds a vertical line from one value to another."""
        (px, top), (_, base) = self.at(x, high), self.at(x, low)
        line = f'x1="{px:.1f}" x2="{px:.1f}" y1="{top:.1f}" y2="{base:.1f}"'
        self._mark(f'<line {line} class="span {kind}" stroke-width="{width:.1f}"/>', title)

    def box(self, x0: float, x1: float, y0: float, y1: float, kind: str, title: str = "", opacity: float = 1.0) -> None:
        """Adds a filled rectangle between two corners."""
        (left, top), (right, base) = self.at(x0, max(y0, y1)), self.at(x1, min(y0, y1))
        size = f'x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.4):.1f}" height="{max(base - top, 0):.1f}"'
        faint = f' opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._mark(f'<rect {size} class="box {kind}"{faint}/>', title)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Adds a line through points."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self._parts.append(f'<polyline points="{places}" class="line {kind}"/>')

    def text(self, x: float, y: float, text: str, *, anchor: str = "middle", turned: bool = False) -> None:
        """Adds a text at pixels."""
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>')

    def draw(self, svg: str) -> None:
        """Adds SVG elements, given in pixels."""
        self._parts.append(svg)

    def axes(self, x_title: str, y_title: str, *, names: Sequence[str] | None = None) -> None:
        """Adds grid lines with numbers, and titles.

        Args:
            x_title: Title of the horizontal axis.
            y_title: Title of the vertical axis.
            names: Labels of the places 0, 1, 2, ... instead of numbers; as many as fit are shown.
        """
        right, base = self.width - RIGHT, self.height - self.bottom
        for value in self.y.ticks():
            _, y = self.at(self.x.low, value)
            self._parts.append(f'<line x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            self.text(self.left - 7, y + 4, f"{value:g}", anchor="end")
        if names is None:
            for value in self.x.ticks():
                x, _ = self.at(value, self.y.low)
                self.text(x, base + 16, f"{value:g}")
        else:
            names = [name if len(name) <= _LABEL else f"{name[: _LABEL - 3]}..." for name in names]
            step = max(1, math.ceil(len(names) * 8 * max(map(len, names), default=1) / (right - self.left)))
            for place in range(0, len(names), step):
                x, _ = self.at(place, self.y.low)
                self.text(x, base + 16, names[place])
        self._parts.append(f'<line x1="{self.left}" x2="{right}" y1="{base}" y2="{base}" class="axis"/>')
        self.text((self.left + right) / 2, self.height - 5, x_title)
        if y_title:
            self.text(14, (TOP + base) / 2, y_title, turned=True)

    def svg(self, label: str) -> Markup:
        """Returns the chart; ``label`` says what it shows to those who cannot see it."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
        return Markup(f'{head} aria-label="{escape(label)}">{"".join(self._parts)}</svg>')

    def _mark(self, drawn: str, title: str) -> None:
        named = f"<g><title>{escape(title)}</title>{drawn}</g>" if title else drawn
        self._parts.append(named)


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Returns the legend of a chart, from (class, text) of each kind of mark."""
    swatches = (Markup('<span><i class="swatch {}"></i>{}</span>').format(kind, text) for kind, text in entries)
    return Markup('<div class="legend">{}</div>').format(Markup("").join(swatches))
