"""The registry: results/*.json, rows that we measured and rows that we quote.

A file of ours is one row, which `FID_sample.py verify=NAME` measures again; a file with the key
"quoted" has rows as others published them. `python -m Metrics.registry record=RECORD.json name=NAME
data=DATA generator=GENERATOR` makes a row of a finished record; it and `python -m Metrics.registry`
write the tables of all rows into the README.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MaskGIL.command import Flags, run_command
from MaskGIL.config import leaves
from MaskGIL.durable import replace_file, to_json
from MaskGIL.values import did_you_mean
from Metrics.results_table import in_readme
from Metrics.row import Row, row_of
from Metrics.sample_config import SampleConfig
from Metrics.schema import check_kind
from Network.config import UserError, setting

RESULTS, README = Path("results"), Path("README.md")
NUMBER = (float, int)
IDENTITY = {
    "num_images": int,
    "seed": int,
    "chunk": int,
    "labels_sha256?": str,
    "captions_sha256?": str,
    "text_encoder?": str,
    "text_encoder_sha256?": str,
    "ema": bool,
    "network_sha256": str,
    "ar_network_sha256?": str,
    "tokenizer": str,
    "tokenizer_sha256": str,
    "precision": str,
    "compiled?": bool,
}
SETTINGS = {f"{leaf.key}?": object for leaf in leaves(SampleConfig) if leaf.key not in IDENTITY}
REFERENCE = {
    "name": str,
    "sha256": (str, None),
    "statistics_sha256?": str,
    "count": (int, None),
    "of?": (str, None),
    "split": (str, None),
    "transform": (str, None),
    "image_size": ([int], None),
}
OURS = {
    "name": str,
    "data": str,
    "generator": str,
    "image_size": [int],
    "parameters": int,
    "command": str,
    "commit": str,
    "samples": {**IDENTITY, **SETTINGS},
    "set_sha256": str,
    "evaluators": {str: str},
    "reference": REFERENCE,
    "numbers": {
        str: {
            "value": NUMBER,
            "interval": ({"low": NUMBER, "high": NUMBER, "extrapolated?": NUMBER}, None),
            "tolerance": {"same bytes": NUMBER, "other bytes": (*NUMBER, None)},
        }
    },
    "speed?": {
        "device?": str,
        "images_per_second?": NUMBER,
        "seconds_alone?": NUMBER,
        "peak_memory?": int,
    },
}
THEIRS = {
    "quoted": {"by": str, "from": str, "url": str, "date": str},
    "data": str,
    "image_size": [int],
    "num_images": (int, None),
    "evaluator": (str, None),
    "reference": (str, None),
    "rows": [
        {
            "name": str,
            "generator": str,
            "parameters": (str, None),
            "sampler": (str, None),
            "numbers": {"FID?": NUMBER, "inception score?": NUMBER},
        }
    ],
}


@dataclass(frozen=True)
class RegistryConfig:
    """A row to be made; without a record only the README's tables are."""

    record: str = setting("", "record of a scored set, as FID_sample.py writes it; empty: no row")
    name: str = setting("", "of the row: results/NAME.json, which is never overwritten")
    data: str = setting("", "what people call the images that the generator has learned")
    generator: str = setting("", "what people call the generator")


def main(config: RegistryConfig, flags: Flags) -> None:
    """Make the row, if one is asked for, and the tables."""
    rows, file = read_rows(), RESULTS / f"{config.name}.json"
    row = make_row(config, file, [row["name"] for row in rows]) if config.record else None
    rows = in_order([*rows, row]) if row else rows
    text = in_readme(README, rows)
    if not flags.dry_run:
        if row:
            RESULTS.mkdir(exist_ok=True)
            replace_file(file, to_json(row) + b"\n")
        replace_file(README, text.encode())
    print(f"{file}\n" * bool(row) + f"{README}: tables of {len(rows)} rows")


def make_row(config: RegistryConfig, file: Path, taken: Sequence[str]) -> Row:
    """The row that a config asks for, under a name that is not `taken`.

    Raises UserError for whatever does not fit.
    """
    for key in ("name", "data", "generator"):
        if not getattr(config, key):
            raise UserError(f"{key} is empty; give {key}=..., the row of a record needs it.")
    if not re.fullmatch(r"[a-z0-9-]+", config.name):
        raise UserError(f"name={config.name} must be of small letters, digits and dashes.")
    if config.name in taken:
        raise UserError(f"name={config.name} is taken; give another, or delete {file}.")
    record = _read(Path(config.record), "record")
    if not isinstance(record, dict) or "samples" not in record:
        raise UserError(f"record={config.record} is no record of samples.")
    row = row_of(record, name=config.name, data=config.data, generator=config.generator)
    check_kind(json.loads(to_json(row)), OURS, file)
    return row


def find_row(value: str) -> Row:
    """The row of ours that is called so, or that lies in the file of this path.

    Raises UserError for one that is not there, and for a quoted one.
    """
    rows = read_rows()
    if value.endswith(".json"):
        named = list(_rows_of(Path(value)))
    else:
        named = [row for row in rows if row["name"] == value]
    ours = ", ".join(row["name"] for row in rows if "quoted" not in row) or "none yet"
    if not named:
        hint = did_you_mean(value, [row["name"] for row in rows])
        raise UserError(f"No row {value} in {RESULTS}/.{hint} Rows of ours: {ours}.")
    row = named[0]
    if "quoted" in row:
        raise UserError(
            f"{row['name']} is quoted from {row['quoted']['url']}: only rows of ours can be "
            f"measured again. Rows of ours: {ours}."
        )
    return row


def read_rows() -> list[Row]:
    """All rows, ours first. Raises UserError for a file that does not fit, and for a name twice."""
    rows = [row for file in sorted(RESULTS.glob("*.json")) for row in _rows_of(file)]
    names = [row["name"] for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{RESULTS}/ has two rows {name}; rename one.")
    return in_order(rows)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Ours by their names, then quoted ones as their files have them."""
    return sorted(rows, key=lambda row: ("quoted" in row, "" if "quoted" in row else row["name"]))


def _rows_of(file: Path) -> Iterator[Row]:
    """The rows of a file; each quoted one has the facts that they share."""
    found = _read(file, "row")
    check_kind(found, THEIRS if isinstance(found, dict) and "quoted" in found else OURS, file)
    if "quoted" not in found:
        yield found
        return
    shared = {key: value for key, value in found.items() if key != "rows"}
    yield from ({**shared, **row} for row in found["rows"])


def _read(file: Path, what: str) -> Any:
    if not file.is_file():
        raise UserError(f"No such {what}: {file}.")
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}).") from None


if __name__ == "__main__":
    program = "python -m Metrics.registry"
    sys.exit(run_command(main, RegistryConfig, sys.argv[1:], program=program, about=__doc__ or ""))
