"""A chart as a piece of SVG: lines over training steps, by nothing but text.

Colours and fonts are those of the page that it stands on: classes `line`, `dots`, `tick`, `grid`.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 12, 28
MOST_POINTS = 500
TICKS = 5


class Line(NamedTuple):
    """One curve: step -> number; dots where the numbers are few."""

    name: str
    points: Mapping[int, float]
    colour: str
    dots: bool = False


def draw_chart(lines: Sequence[Line], last: int, logarithmic: bool = False) -> str:
    """The SVG of lines over the steps from 0 to `last`; empty where none has a finite number.

    Of many points some are left out. Each dot tells its numbers under the mouse.
    """
    known = [line._replace(points=_finite(line.points, logarithmic)) for line in lines]
    known = [line for line in known if line.points]
    if not known:
        return ""
    across = Axis([0, last], LEFT, WIDTH - RIGHT)
    values = [value for line in known for value in line.points.values()]
    down = Axis(values, HEIGHT - BOTTOM, TOP, logarithmic)
    parts = [_grid(across, down), *(_curve(line, across, down) for line in known)]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    return f"<svg {box}>{''.join(parts)}</svg>"


class Axis:
    """Turns numbers into places between two ends."""

    def __init__(self, values: Sequence[float], start: int, end: int, logarithmic: bool = False):
        self.start, self.end, self.logarithmic = start, end, logarithmic
        self.low, self.high = min(map(self._scaled, values)), max(map(self._scaled, values))
        if self.low == self.high:
            margin = abs(self.low) / 10 or 0.5
            self.low, self.high = self.low - margin, self.high + margin

    def place(self, value: float) -> float:
        """Where a number is."""
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the ends, few of them."""
        if self.logarithmic:
            powers = range(math.ceil(self.low), math.floor(self.high) + 1)
            if len(powers) > 1:
                return [10.0**power for power in powers]
            return [10**self.low, 10**self.high]
        step = nice((self.high - self.low) / TICKS)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + index) * step for index in range(count)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def nice(number: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below a number above 0."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= number * (1 - 1e-9))


def _finite(points: Mapping[int, float], logarithmic: bool) -> dict[int, float]:
    """What can be drawn; the last point is always there."""
    found = {
        step: value
        for step, value in points.items()
        if math.isfinite(value) and (value > 0 or not logarithmic)
    }
    stride = -(-len(found) // MOST_POINTS)
    return dict(reversed(list(reversed(found.items()))[:: stride or 1]))


def _grid(across: Axis, down: Axis) -> str:
    parts = []
    for value in down.ticks():
        y = down.place(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{value:.4g}</text>')
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}">{value:,.0f}</text>')
    return "".join(parts)


def _curve(line: Line, across: Axis, down: Axis) -> str:
    places = {
        step: f"{across.place(step):.1f} {down.place(value):.1f}"
        for step, value in line.points.items()
    }
    path = f'<path class="line" stroke="{line.colour}" d="M{"L".join(places.values())}"/>'
    if not line.dots and len(places) > 1:
        return path
    told = {
        step: escape(f"{line.name}: {line.points[step]:.4g} at step {step:,}") for step in places
    }
    dots = (
        f'<circle class="dots" fill="{line.colour}" cx="{place.split()[0]}" '
        f'cy="{place.split()[1]}" r="3"><title>{told[step]}</title></circle>'
        for step, place in places.items()
    )
    return path + "".join(dots)
