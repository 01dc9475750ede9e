"""The rows of a study, read: its stages, the cells of its grid, and what each changes where.

A row is text. A stage is a command as one would type it; `@STAGE` in it stands for the folder of an
earlier stage, `@seed` for the seed of the cell. What changes is written STAGE:KEY=VALUE.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from MaskGIL.durable import sha256
from MaskGIL.values import did_you_mean, quote
from Network.config import UserError
from Trainer.config import StudyConfig

PROGRAMS = ("main.py", "FID_sample.py")
REFERENCE = re.compile(r"(?<=[=,])@([\w-]+)")  # where a value, or an item of a list, begins
SEED = "seed"
LONGEST = 120  # bytes of a name, to which a part adds its key; file systems take 255
_NAME = re.compile(r"[a-zA-Z][\w-]*")


@dataclass(frozen=True)
class Stage:
    """A command that every cell runs: `file` is its YAML, None without."""

    name: str
    program: str
    file: str | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What becomes of a key in a stage; the key "" is the stage's YAML file."""

    stage: str
    key: str
    value: str


@dataclass(frozen=True)
class Choice:
    """Changes that belong together: an arm, or a value of an axis. `label` is how names tell it."""

    label: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Cell:
    """A place of the grid: an arm with a value of each axis, and a seed."""

    arm: str
    values: dict[str, str]  # of the axes, as they are written
    seed: int
    choices: tuple[Choice, ...]

    @property
    def name(self) -> str:
        """Its labels and its seed, as a name of a file."""
        labels = [choice.label for choice in self.choices]
        return file_name([*labels, f"{SEED}={self.seed}"])


def read_stages(rows: Sequence[str]) -> list[Stage]:
    """Rows NAME PROGRAM [FILE.yaml] [KEY=VALUE ...], in the order in which they run.

    Raises UserError for a row of another form, and for references to what does not come earlier.
    """
    stages: list[Stage] = []
    for row in rows:
        found = _words(row)
        name, program, *words = found if len(found) > 1 else ("", "")
        file = words.pop(0) if words and words[0].endswith((".yaml", ".yml")) else None
        if not _NAME.fullmatch(name) or program not in PROGRAMS or not all("=" in w for w in words):
            raise UserError(
                f"study.stages has a row {quote(row)}; write NAME PROGRAM FILE.yaml KEY=VALUE ..., "
                f"PROGRAM one of {', '.join(PROGRAMS)}."
            )
        earlier = [stage.name for stage in stages]
        if name in (*earlier, SEED):
            raise UserError(f"study.stages has a row {quote(row)}, whose name is taken; find one.")
        for word in words:
            _check_references(word, earlier)
        stages.append(Stage(name, program, file, tuple(words)))
    return stages


def read_cells(study: StudyConfig, stages: Sequence[Stage]) -> list[Cell]:
    """The cells of a study, seeds last. Raises UserError for rows that cannot be read."""
    everywhere = Choice("", tuple(c for row in study.changes for c in _read_change(row, stages)))
    arms = [_read_arm(row, stages) for row in study.arms] or [(Choice("", ()), None)]
    axes = [_read_axis(row, stages) for row in study.axes]
    keys = [key for key, _ in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"study.axes has two rows of {twice[0]}; write its values in one.")
    cells: list[Cell] = []
    for arm, seeds in arms:
        for chosen in product(*(choices for _, choices in axes)):
            values = dict(zip(keys, (value for value, _ in chosen)))
            choices = (everywhere, arm, *(choice for _, choice in chosen))
            for seed in study.seeds if seeds is None else seeds:
                cells.append(Cell(arm.label, values, seed, choices))
    names = [cell.name for cell in cells]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"study.arms and study.axes make two cells {twice[0]}; name them apart.")
    return cells


def file_name(labels: Sequence[str]) -> str:
    """Labels joined to a name of a file; blanks and the like become dashes.

    Of a long one the end is a hash of the whole, so that it tells apart what differs there.
    """
    words = (re.sub(r"[^\w.=+]+", "-", label).strip("-") for label in labels if label)
    name = "_".join(words).encode()
    if len(name) <= LONGEST:
        return name.decode()
    return f"{name[:LONGEST].decode(errors='ignore')}-{sha256(name)[:8]}"


def _words(row: str) -> list[str]:
    """As a shell reads them: what has blanks may stand in quotes."""
    try:
        return shlex.split(row)
    except ValueError:
        raise UserError(f"The study has {quote(row)}, whose quotes are not closed.") from None


def _read_arm(row: str, stages: Sequence[Stage]) -> tuple[Choice, list[int] | None]:
    """NAME CHANGE ... [seeds=A,B] -> the arm, whose name may have blanks, and its own seeds."""
    words = _words(row)
    changes = [word for word in words if "=" in word]
    name = " ".join(words[: len(words) - len(changes)])
    if not name or words[len(words) - len(changes) :] != changes:
        raise UserError(f"study.arms has a row {quote(row)}; write NAME KEY=VALUE KEY=VALUE.")
    seeds = None
    for word in [word for word in changes if word.startswith("seeds=")]:
        changes.remove(word)
        listed = word.removeprefix("seeds=").split(",")
        seeds = [int(seed) for seed in listed if seed.isdecimal()]
        if len(set(seeds)) < len(listed):
            raise UserError(
                f"study.arms has {quote(word)}; seeds are whole numbers, each once, seeds=0,1,2."
            )
    return Choice(name, tuple(c for word in changes for c in _read_change(word, stages))), seeds


def _read_axis(row: str, stages: Sequence[Stage]) -> tuple[str, list[tuple[str, Choice]]]:
    """[STAGE:]KEY=VALUE VALUE ... -> the key, and each value with what it changes."""
    left, equals, right = row.partition("=")
    values = _words(right)
    if not equals or not values:
        raise UserError(f"study.axes has a row {quote(row)}; write KEY=VALUE VALUE VALUE.")
    key = left.strip().rpartition(":")[2]
    found, stems = [], [Path(value).stem for value in values]
    for value, stem in zip(values, stems):
        changes = tuple(_read_change(f"{left.strip()}={value}", stages))
        shown = stem if not changes[0].key and stems.count(stem) == 1 else value
        found.append((shown, Choice(f"{key}={shown}", changes)))
    return key, found


def _read_change(word: str, stages: Sequence[Stage]) -> Iterator[Change]:
    """STAGE:KEY=VALUE, STAGE,STAGE:KEY=VALUE or STAGE=FILE.yaml; of one stage its name may miss."""
    left, equals, value = word.partition("=")
    target, colon, key = left.rpartition(":")
    names = [stage.name for stage in stages]
    if not equals or (colon and not key):
        raise UserError(f"{quote(word)} changes nothing; write STAGE:KEY=VALUE.")
    if not colon and key in names:
        target, key = key, ""
    elif not colon and len(names) == 1:
        target = names[0]
    elif not colon:
        raise UserError(
            f"{quote(word)} does not say of which stage; write STAGE:{word}, STAGE one or several "
            f"of {','.join(names)}."
        )
    for name in target.split(","):
        if name not in names:
            hint = did_you_mean(name, names) or f" Stages are {', '.join(names)}."
            raise UserError(f"{quote(word)} is of no stage of the study.{hint}")
        _check_references(word, names[: names.index(name)])
        yield Change(name, key, value)


def _check_references(word: str, earlier: Sequence[str]) -> None:
    for name in REFERENCE.findall(word):
        if name not in (*earlier, SEED):
            known = ", ".join(f"@{each}" for each in (*earlier, SEED))
            raise UserError(f"{quote(word)} stands on @{name}, which does not come before; "
                            f"known there: {known}.")  # fmt: skip
