"""The record of a sweep as a table, and its numbers in words."""

from collections.abc import Callable, Sequence
from typing import Any

from Metrics.jackknife import GROUPS, standard_error
from Metrics.judge import RISING
from Metrics.record import Record
from Metrics.sample_and_eval import FEW

ERRORS = (
    f"± is a standard error: the jackknife over {GROUPS} groups of the images. All cells have the "
    "same labels and noise, so what a cell is behind the first one has an error of its own."
)
# What a cell costs: heading -> its number
COSTS: dict[str, Callable[[Record], float]] = {
    "seconds per image": lambda cell: cell["seconds"]["transformer"]["median"],
    "sequential steps": lambda cell: cell["cost"]["sequential steps"],
    "GFLOP per image": lambda cell: cell["cost"]["gigaflops"],
}


def to_markdown(record: Record) -> str:
    """The record of a sweep: a row for each cell, the best first, those of a front marked."""
    measures, cells = measure_names(record), ranked(record)
    fronts = {name: front(cells, COSTS[name], measures[0]) for name in COSTS}
    head = ["sampler", "no.", *measures, "behind no. 1"]
    rows = [[*head, "s/image", "with pixels", "steps", "passes", "GFLOP"]]
    for number, cell in enumerate(cells, 1):
        scores = [_with_error(cell["measures"][name]) for name in measures]
        scores.append(_with_error(behind(cell, cells[0], measures[0])) if number > 1 else "")
        rows.append([cell["title"], str(number), *scores, *_costs(cell, fronts)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [
        f"| {' | '.join([head.ljust(widths[0]), *map(str.rjust, others, widths[1:])])} |"
        for head, *others in rows
    ]
    return "\n".join([*_facts(record), "", *lines, "", *(f"* {n}" for n in _notes(record))]) + "\n"


def measure_names(record: Record) -> list[str]:
    """Of what the cells were measured by, the first of which ranks them."""
    return list(record["cells"][0]["measures"])


def ranked(record: Record) -> list[Record]:
    """The cells, the best first."""
    first = measure_names(record)[0]
    return sorted(record["cells"], key=lambda cell: goodness(cell, first), reverse=True)


def goodness(cell: Record, measure: str) -> float:
    """A number that grows with what is better."""
    value = cell["measures"][measure]["value"]
    return value if measure in RISING else -value


def behind(cell: Record, best: Record, measure: str) -> dict[str, float]:
    """How much worse a cell is than another one, {"value", "error"}.

    The sets share their labels and noise, group by group, and so does the jackknife.
    """
    ours, theirs = cell["measures"][measure], best["measures"][measure]
    sign = -1 if measure in RISING else 1
    without = [sign * (a - b) for a, b in zip(ours["without"], theirs["without"], strict=True)]
    value = sign * (ours["value"] - theirs["value"])
    return {"value": value, "error": standard_error(without)}


def front(cells: Sequence[Record], cost: Callable[[Record], float], measure: str) -> list[Record]:
    """The cells that no other beats at their cost or less (Pareto), the cheapest first."""
    found: list[Record] = []
    for cell in sorted(cells, key=lambda cell: (cost(cell), -goodness(cell, measure))):
        if not found or goodness(cell, measure) > goodness(found[-1], measure):
            found.append(cell)
    return found


def measures_in_words(measures: dict[str, dict[str, float]]) -> str:
    """Every measure with its error."""
    return ", ".join(f"{name} {_with_error(found)}" for name, found in measures.items())


def _costs(cell: Record, fronts: dict[str, list[Record]]) -> list[str]:
    cost, seconds = cell["cost"], cell["seconds"]

    def marked(text: str, name: str) -> str:
        return f"{text} *" if cell in fronts[name] else text

    return [
        marked(f"{seconds['transformer']['median']:.3g}", "seconds per image"),
        f"{seconds['with pixels']['median']:.3g}",
        marked(f"{cost['sequential steps']}", "sequential steps"),
        f"{cost['network passes']:g}",
        marked(f"{cost['gigaflops']:.3g}", "GFLOP per image"),
    ]


def _with_error(found: dict[str, float]) -> str:
    """With two digits of the error, as it is usual: 12.34 ± 0.56."""
    value, error = found["value"], found["error"]
    digits = max(0, 1 - _exponent(error)) if error else 4
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _exponent(number: float) -> int:
    return int(f"{number:e}".partition("e")[2])


def _facts(record: Record) -> list[str]:
    facts, reference, timing = record["set"], record["reference"], record["timing"]
    return [
        "# Samplers of one generator",
        "",
        f"{facts['num_images']:,} images each, seed {facts['seed']}, {facts['precision']}, network "
        f"{facts['network_sha256'][:8]}, against {reference['count']:,} of {reference['name']}. "
        f"Seconds on {timing['machine']['device']} at a load of {timing['machine']['load'][0]:g}.",
    ]


def _notes(record: Record) -> list[Any]:
    timing, count = record["timing"], record["set"]["num_images"]
    notes = [
        ERRORS,
        f"Seconds are of {timing['images']} images at a time, transformer alone and with pixels: "
        f"medians of {timing['rounds']} rounds in which the cells took turns.",
        "Passes are grids through the network for an image, GFLOP 10^9 operations of the "
        "transformer (a multiplication and an addition are two).",
        "A star: no cell that costs as much or less is better (by the first measure).",
    ]
    if "FID" in measure_names(record) and count < FEW:
        notes.append(f"An FID of {count:,} images is larger than published ones, of 50,000.")
    return notes
