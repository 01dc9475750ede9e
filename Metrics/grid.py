"""The cells of a sweep: grids of sampler settings, written as the axes of a study are.

A row is one grid: a name if it has one, then KEY=VALUE VALUE ... for each of its axes. Rows add up.
Commas part rows on a command line, so a value that is a list is written 16+48.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, get_type_hints

from MaskGIL.config import load_config
from MaskGIL.durable import to_json
from MaskGIL.effects import check_effects, effective_settings
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import SamplingKeys, sampler_of
from MaskGIL.values import choices, did_you_mean, quote, show_value
from Network.config import UserError

AXIS = re.compile(r"(\w+)=(.*)")
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
KEYS = [field.name for field in fields(SamplingConfig)]
VALUES = {word for kind in get_type_hints(SamplingConfig).values() for word in choices(kind)}


@dataclass(frozen=True)
class Cell:
    """One sampler of a sweep."""

    row: str  # the name of its grid
    values: dict[str, Any]  # of the axes of its grid
    sampling: SamplingConfig  # all of it

    @property
    def title(self) -> str:
        """What tells it from the other cells."""
        return _words(self.row, self.values)

    @property
    def series(self) -> str:
        """What it shares with the cells that differ from it in numbers alone."""
        return _words(self.row, {k: v for k, v in self.values.items() if not is_number(v)})


def cells_of(rows: Sequence[str], pipe: Pipeline) -> list[Cell]:
    """The cells of all grids; each starts from `pipe.sampling` and takes the values of its row.

    Rows may meet: a sampler that two name is one cell, of the first. Raises UserError for a row
    that cannot be read, for a cell that `pipe` cannot sample, and for values of one row that make
    no difference.
    """
    found: dict[bytes, Cell] = {}
    for row in rows:
        cells = list(_cells_of_row(row, pipe))
        samplers = [sampler_of(pipe, cell.sampling) for cell in cells]
        try:
            check_effects(cells[0].values, samplers)
        except UserError as error:
            raise UserError(f"The row {quote(row)} of sweep: {error}") from None
        own: dict[bytes, Cell] = {}
        for cell, sampler in zip(cells, samplers):
            key = to_json(effective_settings(sampler))
            if key in own:
                raise UserError(
                    f"sweep makes {own[key].title!r} and {cell.title!r}, which sample alike; leave "
                    "out the values that have no effect there, or write them in a row of their own."
                )
            own[key] = cell
        found = {**found, **{key: cell for key, cell in own.items() if key not in found}}
    return list(found.values())


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis; true and false have none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells_of_row(row: str, pipe: Pipeline) -> Iterator[Cell]:
    name, axes = _read_row(row)
    for chosen in product(*axes.values()):
        words = [f"{key}={_as_list(key, value)}" for key, value in zip(axes, chosen)]
        try:
            read = load_config(SamplingKeys, None, words)
            values = {key: getattr(read, key) for key in axes}
            sampling = pipe.sampling.changed(**values)
            pipe.plan(sampling)  # it checks
        except UserError as error:
            raise UserError(f"The cell {' '.join(words)!r} of sweep: {error}") from None
        yield Cell(name, values, sampling)


def _read_row(row: str) -> tuple[str, dict[str, list[str]]]:
    """The name of a row, which may be empty or have blanks, and the values of its axes."""
    name: list[str] = []
    axes: dict[str, list[str]] = {}
    values = name
    for word in _split(row):
        if axis := AXIS.fullmatch(word):
            key, first = axis.groups()
            if key not in KEYS:
                hint = did_you_mean(key, KEYS) or f" Known: {', '.join(KEYS)}."
                raise UserError(f"{key!r} in sweep is no setting of a sampler.{hint}")
            if key in axes:
                raise UserError(f"sweep has {key} twice in the row {quote(row)}; write it once.")
            values = axes.setdefault(key, [])
            word = first
        if word:
            values.append(word)
    if not all(axes.values()) or not (name or axes):
        raise UserError(
            f"sweep has a row {quote(row)}; write KEY=VALUE VALUE ... for each axis, a name before "
            "them if you like."
        )
    _check_name(row, " ".join(name), axes)
    return " ".join(name), axes


def _check_name(row: str, name: str, axes: dict[str, list[str]]) -> None:
    """Raise UserError for what a comma in the place of a blank has cut off."""
    if NUMBER.fullmatch(name) or (not axes and name in {*KEYS, *VALUES}):
        raise UserError(
            f"sweep has a row {quote(row)}, whose name is that of a setting or a value: commas "
            "part rows; write the values of an axis with blanks, num_steps=1 2 4, and lists with "
            "+, counts=16+48."
        )


def _as_list(key: str, value: str) -> str:
    return value.replace("+", ",") if key == "counts" else value  # the only list


def _split(row: str) -> list[str]:
    try:
        return shlex.split(row)
    except ValueError:
        raise UserError(f"sweep has a row {quote(row)} with a quote that does not end.") from None


def _words(row: str, values: dict[str, Any]) -> str:
    return " ".join(filter(None, [row, *(f"{key}={_show(v)}" for key, v in values.items())]))


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or show_value(value)
    return f"{value:g}" if isinstance(value, float) else show_value(value)
