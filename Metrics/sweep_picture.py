"""The pictures of a sweep: quality against its cost, and against each setting that is a number.

Colours are those of Okabe and Ito (2008) and viridis, which the colour-blind can tell apart.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker

from Metrics.grid import is_number
from Metrics.judge import RISING
from Metrics.record import Record
from Metrics.sweep_table import COSTS, front, measure_names, ranked

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
WIDE = 5  # times the least: from there on an axis of distances is logarithmic
EDGE = 1.5  # times the least and the most cost: where an axis ends
LONG = 10  # times the least number: from there on its axis is logarithmic
MOST_LINES = 12  # of a legend


def draw_fronts(record: Record, file: Path) -> None:
    """A row for each measure, a column for each cost; the Pareto front as steps.

    Cells of a front have the number of their row in the table.
    """
    measures = measure_names(record)
    figure, rows = _figure(len(measures), len(COSTS), 4.0)
    for measure, panels in zip(measures, rows):
        for panel, cost in zip(panels, COSTS):
            _draw_front(panel, record, measure, cost)
        _set_up(panels[0], record["cells"], measure)
    for panel, cost in zip(rows[-1], COSTS):
        panel.set_xlabel(cost)
    handles, labels = rows[0][0].get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=10)
    _save(figure, file)


def draw_axes(record: Record, file: Path) -> None:
    """A row for each measure, a column for each setting that is a number and varies.

    A line joins cells that are alike in all else. Without such a setting there is no picture.
    """
    cells, measures = record["cells"], measure_names(record)
    axes = {key: found for key in _number_keys(cells) if (found := lines_along(cells, key))}
    if not axes:
        file.unlink(missing_ok=True)  # of an earlier sweep in this folder
        return
    figure, rows = _figure(len(measures), len(axes), 4.6)
    for measure, panels in zip(measures, rows):
        for panel, (key, lines) in zip(panels, axes.items()):
            _draw_lines(panel, key, lines, measure)
        _set_up(panels[0], cells, measure)
    for panel, (key, lines) in zip(rows[-1], axes.items()):
        panel.set_xlabel(key)
        if len(lines) <= MOST_LINES:
            panel.legend(fontsize=9)
    _save(figure, file)


def lines_along(cells: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """Two or more cells whose samplers differ in the number `key` alone, in its order.

    They are named by what else the first of them, as the sweep has them, is called.
    """
    lines: dict[str, list[Record]] = {}
    for cell in cells:
        if is_number(cell["sampling"].get(key)):
            others = {name: value for name, value in cell["sampling"].items() if name != key}
            lines.setdefault(json.dumps(others), []).append(cell)
    return {
        " ".join(word for word in line[0]["title"].split() if not word.startswith(f"{key}=")): (
            sorted(line, key=lambda cell: cell["sampling"][key])
        )
        for line in lines.values()
        if len(line) > 1
    }


def _draw_front(panel: Any, record: Record, measure: str, cost: str) -> None:
    cells, cost_of = ranked(record), COSTS[cost]
    for number, series in enumerate(dict.fromkeys(cell["series"] for cell in record["cells"])):
        own = [cell for cell in cells if cell["series"] == series]
        panel.errorbar(
            [cost_of(cell) for cell in own],
            *_values(own, measure),
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            label=series or "all",
            markersize=5,
            elinewidth=0.8,
        )
    best = front(cells, cost_of, measure)
    places = [cost_of(cell) for cell in best]
    values, _ = _values(best, measure)
    panel.step(places, values, where="post", color="0.4", linewidth=1, zorder=0)
    for cell, place, value in zip(best, places, values):
        label = str(1 + cells.index(cell))
        panel.annotate(label, (place, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    costs = [cost_of(cell) for cell in cells]
    panel.set_xlim(min(costs) / EDGE, max(costs) * EDGE)  # also where all cost the same
    _spread_out(panel, "x")
    panel.grid(alpha=0.25)


def _draw_lines(panel: Any, key: str, lines: dict[str, list[Record]], measure: str) -> None:
    colours = matplotlib.colormaps["viridis"]
    for number, (name, line) in enumerate(lines.items()):
        panel.errorbar(
            [cell["sampling"][key] for cell in line],
            *_values(line, measure),
            marker=MARKERS[number % len(MARKERS)],
            color=colours(0.9 * number / max(1, len(lines) - 1)),
            label=name or "all",
            markersize=4,
            linewidth=1,
            elinewidth=0.8,
        )
    numbers = [cell["sampling"][key] for line in lines.values() for cell in line]
    if max(numbers) >= LONG * min(numbers) > 0:
        _spread_out(panel, "x")
    panel.grid(alpha=0.25)


def _spread_out(panel: Any, name: str) -> None:
    """Make the axis x or y of a panel logarithmic, with plain numbers at 1, 2, 5, 10, ..."""
    panel.set(**{f"{name}scale": "log"})
    axis = getattr(panel, f"{name}axis")
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _number_keys(cells: Sequence[Record]) -> list[str]:
    return list(
        dict.fromkeys(k for cell in cells for k, v in cell["values"].items() if is_number(v))
    )


def _values(cells: Sequence[Record], measure: str) -> tuple[list[float], list[float]]:
    """Values and errors."""
    found = [cell["measures"][measure] for cell in cells]
    return [each["value"] for each in found], [each["error"] for each in found]


def _set_up(panel: Any, cells: Sequence[Record], measure: str) -> None:
    """The vertical axis of a row."""
    rises = measure in RISING
    panel.set_ylabel(f"{measure} ({'more' if rises else 'less'} is better)")
    values, _ = _values(cells, measure)
    if not rises and max(values) > WIDE * min(values) > 0:
        _spread_out(panel, "y")


def _figure(num_rows: int, num_columns: int, width: float) -> tuple[Any, Any]:
    """A figure and its panels, of so many inches each."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(
        num_rows,
        num_columns,
        figsize=(width * num_columns, 3.3 * num_rows + 0.5),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )


def _save(figure: Any, file: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(file, dpi=120)
    pyplot.close(figure)
