"""A row of the registry measured again: its hashes before anything is sampled, then its numbers.

Whatever differs ends the command with exit code 1 and a sentence that names it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from MaskGIL.command import Failure, parse
from MaskGIL.config import changed_keys, load_config
from MaskGIL.distributed import is_main
from MaskGIL.public import GENERATORS
from MaskGIL.weights import TOKENIZER
from Metrics.clip_score import ClipScorer
from Metrics.record import Record
from Metrics.reference import open_reference, reference_facts
from Metrics.registry import find_row
from Metrics.results_table import placeholder
from Metrics.row import Row, numbers_of, places_of, words_of
from Metrics.sample_config import SampleConfig
from Metrics.seen import Extractor, Seen
from Metrics.statistics_file import StatisticsFile
from Network.config import UserError
from Network.files import fingerprint, read_tensors

WEIGHTS = ("network_sha256", "ar_network_sha256", "tokenizer", "tokenizer_sha256", "text_encoder",
           "text_encoder_sha256")  # fmt: skip
NAMES = ("name", "of")  # of a reference, which may lie elsewhere


class Compared(NamedTuple):
    """A number of a row and the same measured here; a tolerance of None lets it be anything."""

    name: str
    expected: float
    found: float | None
    tolerance: float | None

    @property
    def stands(self) -> bool:
        """Whether it is there and within the tolerance."""
        if self.found is None:
            return False
        return self.tolerance is None or abs(self.found - self.expected) <= self.tolerance


def open_row(name: str, words: Sequence[str]) -> tuple[Row, SampleConfig]:
    """The row of a name, and what measures it: its own settings, replaced by those of a command.

    Raises UserError for a row or weights that are not there, and for what makes no set of samples;
    Failure for another tokenizer or reference, which the main rank reads.
    """
    row = find_row(name)
    path, given, _ = parse(SampleConfig, words)
    if path:
        raise UserError(f"verify takes its settings from the row, not from {path}; leave it out.")
    given = [word for word in given if not word.startswith("verify=")]
    out = f"out=runs/verify/{row['name']}.npz"
    config = load_config(SampleConfig, None, [*words_of(row), out, *given])
    if config.sweep or config.reconstruct or config.samples:
        raise UserError(
            "verify makes one set of samples: leave sweep, reconstruct and samples out."
        )
    _check_places(row, places_of([*words_of(row), *given]))
    if is_main():
        _check_tokenizer(row, config)
        _check_reference(row, config)
    return row, config


def check_set(row: Row, samples: Mapping[str, Any]) -> None:
    """Raise Failure for other weights or settings than those of the row, else say that they are.

    The reference was compared when the row was opened.
    """
    changes = changed_keys(row["samples"], samples)
    _refuse(row, "weights", [change for change in changes if change[0] in WEIGHTS])
    _refuse(row, "settings", changes)
    if is_main():
        print(f"row        {row['name']}: weights, settings and reference are the same", flush=True)


def check_evaluators(row: Row, networks: Sequence[Extractor | ClipScorer]) -> None:
    """Raise UserError for a network of the row that is not at hand, Failure for another one."""
    evaluators = {network.name: network.sha256 for network in networks}
    for name in row["evaluators"]:
        if name not in evaluators:
            key = name.partition("-")[0]
            give = "clip=FOLDER" if key == "clip" else f"{key}=FILE or {key}=download"
            raise UserError(
                f"{row['name']} was scored by {name}, which is not at hand: give {give}."
            )
    found = {name: evaluators[name] for name in row["evaluators"]}
    _refuse(row, "evaluators", changed_keys(row["evaluators"], found))


def conclude(row: Row, record: Record) -> None:
    """Print the comparison. Raises Failure if a number is missing or outside of its tolerance."""
    print(f"\n{verdict(row, record)}")
    others = [each for each in compare(row, record) if not each.stands]
    _refuse(row, "numbers", [(each.name, each.expected, each.found) for each in others])
    print(f"{row['name']} stands.")


def compare(row: Row, record: Record) -> list[Compared]:
    """The numbers of a row beside those of a record, each with the tolerance for such bytes."""
    found = numbers_of(record)
    which = "same bytes" if record["sha256"] == row["set_sha256"] else "other bytes"
    return [
        Compared(name, number["value"], found.get(name), number["tolerance"][which])
        for name, number in row["numbers"].items()
    ]


def verdict(row: Row, record: Record) -> str:
    """The comparison as an aligned table, for people."""
    same = record["sha256"] == row["set_sha256"]
    rows = {
        "row": f"{row['name']}: reference, weights, settings and evaluators are the same",
        "set": "the same bytes"
        if same
        else "other bytes, as other hardware or versions draw them: intervals are compared",
    }
    for name, expected, found, tolerance in compare(row, record):
        here = "not measured" if found is None else f"{found:.6g}"
        within = "not compared" if tolerance is None else f"may differ by {tolerance:.2g}"
        rows[name] = f"{expected:.6g} in the row, {here} here, {within}"
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def _check_places(row: Row, places: Mapping[str, str]) -> None:
    """Raise UserError that names all that is not there, and the keys that say where it lies."""
    missing = {
        key: place
        for key, place in places.items()
        if place not in GENERATORS and not Path(place).exists()
    }
    if not missing:
        return
    keys = " ".join(f"{key}={placeholder(key)}" for key in missing)
    network = f" The network has the sha256 {row['samples']['network_sha256']}."
    raise UserError(
        f"{row['name']} needs what is not at hand, there is no "
        f"{' and no '.join(dict.fromkeys(missing.values()))}: give {keys}."
        + network
        * ("weights" in missing)
    )


def _check_tokenizer(row: Row, config: SampleConfig) -> None:
    """Before a job, to which one that its folder does not describe is a mistake."""
    file = Path(config.weights) / TOKENIZER
    if file.is_file():
        expected = row["samples"]["tokenizer_sha256"]
        found = fingerprint(read_tensors(file))
        _refuse(row, "weights", changed_keys({TOKENIZER: expected}, {TOKENIZER: found}))


def _check_reference(row: Row, config: SampleConfig) -> None:
    (height, width), whole = row["image_size"], config.train != config.reference
    split, count = config.reference_split, config.num_reference
    reference = open_reference(config.reference, split, (height, width), count, whole=whole)
    if isinstance(reference, StatisticsFile):
        facts = reference.facts()
    else:
        seen = Seen(reference, len(reference), extractors=())
        facts = reference_facts(reference, seen.sha256)
    expected = {key: fact for key, fact in row["reference"].items() if key not in NAMES}
    _refuse(row, "reference", changed_keys(expected, {key: facts.get(key) for key in expected}))


def _refuse(row: Row, what: str, changes: Sequence[tuple[str, Any, Any]]) -> None:
    """Raise Failure if anything has changed: (name, in the row, here)."""
    told = [f"{key} is {_told(old)} in the row and {_told(new)} here" for key, old, new in changes]
    if told:
        raise Failure(f"{row['name']} does not stand, other {what}: {'; '.join(told)}.")


def _told(value: object) -> str:
    return "missing" if value is None else str(value)
