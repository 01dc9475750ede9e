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
    """Draw the record of a study, as `gathered` makes it; nothing where no stage trains."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells, axis = study["cells"], number_axis(study["cells"])
    if not all(cell["curves"] for cell in cells):
        return
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    size = (2.9 * (len(arms) + 1), 3.8) if axis else (5.5, 3.5)
    figure, (panels,) = pyplot.subplots(
        1, len(arms) + 1 if axis else 1, figsize=size, squeeze=False, layout="constrained"
    )
    if axis:
        for panel, arm in zip(panels, arms):
            _draw_arm(panel, arm, axis, study)
        panels[0].set_ylabel("training loss (dotted: diverged)")
        lines = {line.get_label(): line for line in panels[0].lines}
        rows = [(line, label) for label, line in lines.items() if not label.startswith("_")]
        figure.legend(*zip(*rows), title=axis, loc="outside lower center", ncols=len(rows))
        _draw_last(panels[-1], arms, axis, study)
    else:
        _draw_groups(panels[0], cells)
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


def _draw_arm(panel: Any, arm: str, axis: str, study: Record) -> None:
    """Curves of one arm, a colour per value of the axis, dotted where they diverge."""
    values, colours = _values(study["cells"], axis), matplotlib.colormaps["plasma"]
    for cell in study["cells"]:
        if cell["arm"] == arm:
            value = cell["values"][axis]
            share = values.index(value) / max(1, len(values) - 1)
            label = None if value in [line.get_label() for line in panel.lines] else value
            colour, style = colours(share * 0.9), LINES[bool(cell["diverged"])]
            panel.plot(*_curve(cell, "train"), style, color=colour, label=label, linewidth=1)
    stable = study["largest_stable"][arm]
    panel.set(title=f"{arm or 'all'}: stable up to {stable}", xlabel="step")
    panel.set_ylim(*_limits(study["cells"]))
    panel.grid(alpha=0.25)


def _draw_last(panel: Any, arms: list[str], axis: str, study: Record) -> None:
    """The last loss of every arm over the axis: the median of the seeds.

    A cross tells that one of them has diverged, a ring the largest value that is stable.
    """
    low, high = _limits(study["cells"])
    every = _values(study["cells"], axis)
    for number, arm in enumerate(arms):
        own = [cell for cell in study["cells"] if cell["arm"] == arm]
        values, colour = _values(own, axis), f"C{number}"
        at = {value: [cell for cell in own if cell["values"][axis] == value] for value in values}
        losses = [min(high, median(_last(cell) for cell in at[value])) for value in values]
        places = [every.index(value) for value in values]
        panel.plot(places, losses, color=colour, label=arm, linewidth=1.2)
        for x, y, value in zip(places, losses, values):
            mark = "x" if any(cell["diverged"] for cell in at[value]) else "."
            panel.plot(x, y, mark, color=colour, clip_on=False)
            if value == study["largest_stable"][arm]:
                panel.plot(x, y, "o", color=colour, fillstyle="none", markersize=9, clip_on=False)
    panel.set(xlabel=axis, title="last loss (x: diverged)", ylim=(low, high))
    panel.set_xticks(range(len(every)), labels=every)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)


def _draw_groups(panel: Any, cells: list[Record]) -> None:
    """All cells in one panel: seeds share a colour, arms and values of axes do not."""
    groups, kinds = list(dict.fromkeys(map(_group, cells))), {_kind(cell) for cell in cells}
    kind = kinds.pop() if len(kinds) == 1 else "train"
    for number, group in enumerate(groups):
        label: str | None = group
        for cell in cells:
            if _group(cell) == group:
                style = LINES[bool(cell["diverged"])]
                curve = _curve(cell, kind)
                panel.plot(*curve, style, color=f"C{number}", label=label, linewidth=1.2)
                label = None
    panel.set(xlabel="step", title=f"{kind} loss, a line per seed")
    panel.grid(alpha=0.25)
    if groups != [""]:
        panel.legend(fontsize=8)


def _group(cell: Record) -> str:
    return " ".join([cell["arm"], *(f"{key}={value}" for key, value in cell["values"].items())])


def _kind(cell: Record) -> str:
    """Validation where its loss was watched over the steps, else training."""
    return (
        "validation" if len(cell["curves"].get("validation", {}).get("loss", ())) > 1 else "train"
    )


def _curve(cell: Record, kind: str) -> tuple[list[int], list[float]]:
    curve = cell["curves"][kind]
    return curve["step"], [math.nan if loss is None else loss for loss in curve["loss"]]


def _last(cell: Record) -> float:
    """The last training loss of a cell, infinite where there is none, or none that is finite."""
    losses = _curve(cell, "train")[1]
    return math.inf if not losses or math.isnan(losses[-1]) else losses[-1]


def _limits(cells: list[Record]) -> tuple[float, float]:
    """From the least training loss to a little above what most cells began with."""
    curves = [[loss for loss in _curve(cell, "train")[1] if math.isfinite(loss)] for cell in cells]
    curves = [curve for curve in curves if curve] or [[0.0, 1.0]]
    least, first = min(map(min, curves)), median(curve[0] for curve in curves)
    return least - 0.05 * (first - least), first + 0.4 * (first - least)


def _values(cells: list[Record], axis: str) -> list[str]:
    return sorted({cell["values"][axis] for cell in cells}, key=float)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
