"""The picture of what stages of a study sweep: quality against seconds, a line for each arm."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import matplotlib.ticker

from Trainer.equal_cost import DISTANCE
from Trainer.study_record import each_part

Record = dict[str, Any]


def draw_points(study: Record, file: Path) -> None:
    """Distances over seconds per image; points are means over seeds, bars their deviations.

    Beside a point stands the last of its settings. Nothing is drawn where no stage sweeps.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not (lines := lines_of(study)):
        return
    figure, panel = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for number, (label, points) in enumerate(lines.items()):
        seconds, distances, errors, names = zip(*points)
        style = {"fmt": "o-", "color": f"C{number}", "markersize": 4, "linewidth": 1, "capsize": 2}
        panel.errorbar(seconds, distances, yerr=errors, label=label, **style)
        for x, y, name in zip(seconds, distances, names):
            place = {"xytext": (4, 4), "textcoords": "offset points"}
            panel.annotate(name, (x, y), fontsize=7, color=f"C{number}", **place)
    panel.set(xlabel="seconds per image", ylabel=DISTANCE, xscale="log")
    panel.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panel.grid(alpha=0.25)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def lines_of(study: Record) -> dict[str, list[tuple[float, float, float, str]]]:
    """Of each arm in each stage that sweeps, by point: seconds, distance, its deviation, a name.

    The deviation of a single seed is 0. Seeds of an arm sweep the same settings.
    """
    cells = study["cells"]
    stages = list(dict.fromkeys(stage for cell in cells for stage in cell["points"]))
    found: dict[str, list[tuple[float, float, float, str]]] = {}
    groups: dict[tuple, list[Record]] = {}
    for cell in cells:
        groups.setdefault((cell["arm"], *cell["values"].items()), []).append(cell)
    for group in groups.values():
        words = [group[0]["arm"], *group[0]["values"].values()]
        for stage in [stage for stage in stages if stage in group[0]["points"]]:
            label = " ".join(filter(None, [*words, stage if len(stages) > 1 else ""])) or stage
            own, count = each_part(group, stage), len(group[0]["points"][stage])
            found[label] = [_point(own, stage, place) for place in range(count)]
    return found


def _point(group: list[Record], stage: str, place: int) -> tuple[float, float, float, str]:
    points = [cell["points"][stage][place] for cell in group]
    seconds = [cell["clock"][stage]["seconds per image of points"][place] for cell in group]
    distances = [point["measures"][DISTANCE] for point in points]
    deviation = stdev(distances) if len(distances) > 1 else 0.0
    name = points[0]["title"].split()[-1].partition("=")[2]
    return mean(seconds), mean(distances), deviation, name
