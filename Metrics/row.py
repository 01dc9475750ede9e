"""A row of the registry: what a finished record says, and all that it takes to say it again."""

import shlex
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from MaskGIL.values import show_value
from Metrics.record import Record
from Metrics.reference import is_drawn
from Network.config import UserError

Row = dict[str, Any]
PROGRAM = ["python", "FID_sample.py"]
PUBLISHED = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "inception score",
    "inception_score_shuffled": "shuffled inception score",
}
ASIDE = {"out", "png", "nearest", "device", "ladder", "classifier"}  # no number of a row follows
PLACES = ("weights", "reference", "train", "captions")  # keys of what may lie elsewhere
SPEED = ("device", "images_per_second", "seconds_alone", "peak_memory")  # of what was made
ROUNDING = 1e-3  # of a number, or of half of its interval


def row_of(record: Record, *, name: str, data: str, generator: str) -> Row:
    """The row `name` of a scored record; `data` and `generator` are what people call them.

    Raises UserError for a record without what a row needs.
    """
    if not record.get("reference") or "asked" not in record:
        raise UserError(
            "The record is of no set that this version made and scored against a reference; make "
            "or score it again by the same command, with reference=..."
        )
    reference, intervals = record["reference"], record["intervals"]
    speed = {key: record["made"][key] for key in SPEED if record["made"].get(key) is not None}
    return {
        "name": name,
        "data": data,
        "generator": generator,
        "image_size": record["image_size"],
        "parameters": record["parameters"],
        "command": _command(record),
        "commit": _commit(record),
        "samples": record["samples"],
        "set_sha256": record["sha256"],
        "evaluators": record["features"],
        "reference": {key: fact for key, fact in reference.items() if key != "unreadable"},
        "numbers": {
            key: _number(value, intervals.get(key)) for key, value in numbers_of(record).items()
        },
        **({"speed": speed} if speed else {}),
    }


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a record that follow from the images alone, by the names of its table."""
    found = {title: record[key] for key, title in PUBLISHED.items()}
    for name, value in record["metrics"].items():
        found[name] = value.get("share") if isinstance(value, Mapping) else value
    return {name: float(value) for name, value in found.items() if value is not None}


def words_of(row: Row) -> list[str]:
    """The key=value words of a row's command."""
    return shlex.split(row["command"])[len(PROGRAM) :]


def places_of(words: Sequence[str]) -> dict[str, str]:
    """Of the words of a command the keys in PLACES, and what they name that is not drawn."""
    found = dict(word.split("=", 1) for word in words)
    return {key: found[key] for key in PLACES if found.get(key) and not is_drawn(found[key])}


def _number(value: float, interval: Mapping[str, float] | None) -> dict[str, Any]:
    """A number, its interval, and by how much one measured again may differ.

    From the same bytes, by ROUNDING: another machine's arithmetic in the networks that look at
    them. Other bytes are other samples, at worst independent ones: the difference of two such
    numbers has an interval sqrt(2) times as wide as that of one. Without one nothing is known.
    """
    half = (interval["high"] - interval["low"]) / 2 if interval else 0.0
    tolerance = {
        "same bytes": ROUNDING * max(abs(value), half),
        "other bytes": sqrt(2) * half if interval else None,
    }
    return {"value": value, "interval": interval, "tolerance": tolerance}


def _command(record: Record) -> str:
    """What measures the numbers again, in the precision that was chosen then."""
    asked = {key: value for key, value in record["asked"].items() if key not in ASIDE}
    asked["precision"] = record["samples"]["precision"]
    if record["intervals"]:  # a later scoring may have left out what its record has kept
        asked.pop("precision_recall", None)
    if record["fid"] is not None and asked.get("inception") == "none":
        del asked["inception"]
    return shlex.join([*PROGRAM, *(f"{key}={show_value(value)}" for key, value in asked.items())])


def _commit(record: Record) -> str:
    """That of the code that made the set, and that of the code that scored it if it is another."""
    made, scored = record["made"]["versions"].get("commit", "unknown"), record["scored_with"]
    return made if made == scored["commit"] else f"{made}, scored at {scored['commit']}"
