"""The README's tables of results, made of the rows of the registry: ours, and quoted ones apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from MaskGIL.sampling import SamplingConfig
from MaskGIL.values import show_value
from Metrics.record import reach
from Metrics.row import PUBLISHED, Row, places_of, words_of
from Network.config import UserError

BEGIN = "<!-- results: made by `python -m Metrics.registry`, not by hand -->"
END = "<!-- results end -->"
MEASURED = (
    "Measured by us; {commands} measures it again. ± is half of a 95 % interval, in brackets "
    "stands the distance extrapolated to endlessly many samples; distances by other networks than "
    "Inception are no FID."
)
QUOTED = (
    "Quoted, not measured by us: {data}. Evaluators, references and numbers of images differ, so "
    "compare them with care."
)
DIGITS = {"FID": 2, "inception score": 1}  # as they are published
# Of a row of ours: heading -> cell
FACTS: dict[str, Callable[[Row], str]] = {
    "generator": lambda row: row["generator"],
    "parameters": lambda row: f"{row['parameters'] / 1e6:,.1f}M",
    "learned from": lambda row: _data(row),
    "samples": lambda row: f"{row['samples']['num_images']:,}, seed {row['samples']['seed']}",
    "reference": lambda row: _reference(row["reference"]),
    "sampler": lambda row: ", ".join(_settings(row)),
    "weights": lambda row: f"`{row['samples']['network_sha256'][:8]}`",
}
# What sampling took, where a row tells it
SPEED: dict[str, Callable[[Row], str]] = {
    "images per second": lambda speed: f"{speed['images_per_second']:.3g} on {speed['device']}",
    "seconds of one image": lambda speed: f"{speed['seconds_alone']:.2g}",
    "peak memory": lambda speed: f"{speed['peak_memory'] / 1e9:.1f} GB",
}


def in_readme(file: Path, rows: Sequence[Row]) -> str:
    """The text of a README with the tables of these rows between its marks.

    Raises UserError if it has none.
    """
    before, begin, rest = file.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{file} has no place for the tables: write {BEGIN} and {END} into it.")
    return f"{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{after}"


def tables(rows: Sequence[Row]) -> str:
    """What stands between the marks: a column for each row of ours, a line for each quoted one."""
    ours = [row for row in rows if "quoted" not in row]
    quoted = [row for row in rows if "quoted" in row]
    parts = []
    if ours:
        commands = ", ".join(f"`{_command(row)}`" for row in ours)
        parts += [MEASURED.format(commands=commands), _ours(ours)]
    for data, group in groupby(sorted(quoted, key=_data), _data):
        parts += [f"<details><summary>{QUOTED.format(data=data)}</summary>", _quoted(list(group))]
        parts += ["</details>"]
    return "\n\n".join(parts)


def _command(row: Row) -> str:
    """What measures a row again, with the keys of what must be at hand for it."""
    places = "".join(f" {key}={placeholder(key)}" for key in places_of(words_of(row)))
    return f"python FID_sample.py verify={row['name']}{places}"


def placeholder(key: str) -> str:
    """What stands for the value of a key in a command that somebody completes."""
    return "WEIGHTS" if key.endswith("weights") else "FOLDER"


def _ours(rows: Sequence[Row]) -> str:
    names = dict.fromkeys([*PUBLISHED.values(), *(name for row in rows for name in row["numbers"])])
    lines = [[heading, *map(cell, rows)] for heading, cell in FACTS.items()]
    if any("speed" in row for row in rows):
        lines += [[title, *(_speed(row, cell) for row in rows)] for title, cell in SPEED.items()]
    numbers = {name: [_number(row["numbers"].get(name)) for row in rows] for name in names}
    lines += [[name, *told] for name, told in numbers.items() if any(told) or name == "FID"]
    return _markdown([["", *(row["name"] for row in rows)], *lines])


def _quoted(rows: Sequence[Row]) -> str:
    """A line for each row, and below them where they are from."""
    sources = list(dict.fromkeys(map(_source, rows)))
    lines = [["generator", "parameters", "sampler", *DIGITS, "from"]]
    for row in rows:
        found, number = row["numbers"], sources.index(_source(row)) + 1
        numbers = [f"{found[name]:.{n}f}" if name in found else "" for name, n in DIGITS.items()]
        known = [row["generator"], row["parameters"] or "", row["sampler"] or ""]
        lines.append([*known, *numbers, f"({number})"])
    notes = [f"* ({number}) {source}" for number, source in enumerate(sources, 1)]
    return "\n".join([_markdown(lines), "", *notes])


def _source(row: Row) -> str:
    """Who published a quoted row and where, and how it was measured, as far as they tell."""
    source = row["quoted"]
    told = [
        f"{row['num_images']:,} images" if row["num_images"] else "number of images not told",
        f"evaluator {row['evaluator'] or 'not told'}",
        f"reference {row['reference'] or 'not told'}",
    ]
    where = f"[{source['from']}]({source['url']}), {source['date']}"
    return f"{source['by']}: {where}; {', '.join(told)}"


def _speed(row: Row, cell: Callable[[Row], str]) -> str:
    """What a row tells of its speed; "" where it does not."""
    try:
        return cell(row["speed"])
    except KeyError:
        return ""


def _number(number: dict[str, Any] | None) -> str:
    """A number of ours with what its interval tells; "" for none."""
    return f"{number['value']:.4g}{reach(number['interval'])}" if number else ""


def _settings(row: Row) -> list[str]:
    keys = [field.name for field in fields(SamplingConfig) if field.name in row["samples"]]
    return [f"{key}={show_value(row['samples'][key])}" for key in keys]


def _reference(reference: Mapping[str, Any]) -> str:
    count = f"{reference['count']:,} images" if reference["count"] else "statistics"
    return f"{count}, {reference['name']}" + ", of train" * (reference.get("split") == "train")


def _data(row: Row) -> str:
    return f"{row['data']}, {row['image_size'][0]}x{row['image_size'][1]}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
