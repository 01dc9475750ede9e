"""The picture of a study: a panel of curves per arm, and the last losses over the axis.

Without an axis of numbers there is one panel, in which the arms differ by colour.
"""

import math
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

LINES = {False: "-", True: ":"}  # of a cell that has diverged or not

Record = dict[str, Any]


def draw_study(study: Record, file: Path) -> None:
    """Draw the record of a study, as `Trainer.study.gathered` makes it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells, axis = study["cells"], number_axis(study["cells"])
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    count = len(arms) + 1 if axis else 1
    figure, axes = pyplot.subplots(
        1,
        count,
        figsize=(3.4 * count + (0 if axis else 2), 3.5),
        squeeze=False,
        layout="constrained",
    )
    if axis:
        for panel, arm in zip(axes[0], arms):
            _draw_arm(panel, arm, [c for c in cells if c["arm"] == arm], axis, study)
            panel.sharey(axes[0][0])
        _draw_last(axes[0][-1], arms, cells, axis, study["largest_stable"])
    else:
        _draw_groups(axes[0][0], cells)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def number_axis(cells: list[Record]) -> str:
    """The only axis of a study, if all its values are numbers, or an empty text."""
    values = [cell["values"] for cell in cells]
    if not values or len(values[0]) != 1:
        return ""
    (key,) = values[0]
    return key if all(_is_number(value[key]) for value in values) else ""


def largest_stable(cells: list[Record]) -> dict[str, str]:
    """Of each arm the largest value of the axis up to which no cell has diverged, or "none".

    Empty where the study has no axis of numbers, see `number_axis`.
    """
    found: dict[str, str] = {}
    if not (axis := number_axis(cells)):
        return found
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        own = [cell for cell in cells if cell["arm"] == arm]
        found[arm] = "none"
        for value in _values(own, axis):
            if any(cell["diverged"] for cell in own if cell["values"][axis] == value):
                break
            found[arm] = value
    return found


def _draw_arm(panel: Any, arm: str, cells: list[Record], axis: str, study: Record) -> None:
    """Curves of one arm, a colour per value of the axis, dotted where they diverge."""
    values = _values(study["cells"], axis)
    colours = matplotlib.colormaps["viridis"]
    for place, value in enumerate(values):
        colour, label = colours(place / max(1, len(values) - 1) * 0.92), value
        for cell in cells:
            if cell["values"][axis] == value:
                style = LINES[bool(cell["diverged"])]
                panel.plot(*_curve(cell), style, color=colour, label=label, linewidth=1)
                label = None
    stable = study["largest_stable"][arm]
    panel.set(title=f"{arm or 'all'}: stable up to {stable}", xlabel="step")
    panel.set_ylim(*_limits(study["cells"]))
    panel.grid(alpha=0.25)
    panel.legend(title=axis, fontsize=7, title_fontsize=7)


def _draw_last(
    panel: Any, arms: list[str], cells: list[Record], axis: str, stable: dict[str, str]
) -> None:
    """The last loss of every arm over the axis: median of the seeds, crosses where one diverged."""
    low, high = _limits(cells)
    for number, arm in enumerate(arms):
        own = [cell for cell in cells if cell["arm"] == arm]
        values = _values(own, axis)
        at = {value: [c for c in own if c["values"][axis] == value] for value in values}
        losses = [min(high, median(_last(cell) for cell in at[value])) for value in values]
        numbers = [float(value) for value in values]
        colour = f"C{number}"
        panel.plot(numbers, losses, color=colour, label=arm, linewidth=1.2)
        for x, y, value in zip(numbers, losses, values):
            diverged = any(cell["diverged"] for cell in at[value])
            panel.plot(x, y, "x" if diverged else "o", color=colour, markersize=5)
        if stable[arm] != "none":
            panel.axvline(float(stable[arm]) * (1 + 0.03 * number), color=colour, alpha=0.35)
    panel.set(xscale="log", xlabel=axis, title="last loss; x: a seed diverged")
    panel.set_ylim(low, high)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)


def _draw_groups(panel: Any, cells: list[Record]) -> None:
    """All cells in one panel: seeds share a colour, arms and values of axes do not."""
    groups = list(dict.fromkeys(_group(cell) for cell in cells))
    for number, group in enumerate(groups):
        label: str | None = group
        for cell in cells:
            if _group(cell) == group:
                style = LINES[bool(cell["diverged"])]
                panel.plot(*_curve(cell), style, color=f"C{number}", label=label, linewidth=1.2)
                label = None
    panel.set(xlabel="step", title=f"{_kind(cells[0])} loss, a line per seed")
    panel.grid(alpha=0.25)
    if groups != [""]:
        panel.legend(fontsize=8)


def _group(cell: Record) -> str:
    return " ".join([cell["arm"], *(f"{key}={value}" for key, value in cell["values"].items())])


def _kind(cell: Record) -> str:
    """Validation where it was watched over the steps, else training."""
    points = cell["curves"].get("validation", {"step": ()})["step"]
    return "validation" if len(points) > 1 else "train"


def _curve(cell: Record) -> tuple[list[int], list[float]]:
    curve = cell["curves"][_kind(cell)]
    return curve["step"], [float("nan") if loss is None else loss for loss in curve["loss"]]


def _last(cell: Record) -> float:
    """The last loss of a cell, infinite where it is not finite."""
    last = cell["curves"][_kind(cell)]["loss"][-1]
    return float("inf") if last is None else last


def _limits(cells: list[Record]) -> tuple[float, float]:
    """From the least loss to a little above what most cells began with."""
    curves = [[loss for loss in _curve(cell)[1] if math.isfinite(loss)] for cell in cells]
    curves = [curve for curve in curves if curve] or [[0.0, 1.0]]
    least, first = min(map(min, curves)), median(curve[0] for curve in curves)
    return least - 0.05 * (first - least), first + 0.25 * (first - least)


def _values(cells: list[Record], axis: str) -> list[str]:
    return sorted({cell["values"][axis] for cell in cells}, key=float)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
