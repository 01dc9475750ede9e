"""A part of a study: one stage of one cell, or of several that need the same; run in its folder.

Its key is a hash of its resolved settings and of the keys of the parts that it stands on. The
folder is named after the key, so what is finished is found, whatever its arm is called now.
"""

import gc
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from MaskGIL.config import leaves, load_config
from MaskGIL.distributed import barrier, is_main
from MaskGIL.durable import replace_file, sha256, to_json
from MaskGIL.values import show_value
from Metrics.sample_config import SampleConfig
from Metrics.scored_set import other_job
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.findings import of_run, of_samples
from Trainer.generator_data import has_cache
from Trainer.stages import REFERENCE, SEED, Cell, Stage, file_name

FORMAT = 1  # of a part's record
RECORD = "part.json"
# Free keys of a run from which its result follows; settings of the sampler do too
_COUNTED = ("precision", "init_from", "init_skip", "data.path", "data.cache", "text.encoder",
            "tokenizer.weights", "reconstruction.vgg", "loop.steps", "loop.skip_spikes",
            "loop.validate_every", "loop.score_every", "loop.score_images")  # fmt: skip
# Keys of FID_sample.py from which no number follows
_UNCOUNTED = ("out", "device", "compile", "png", "nearest", "grid")
_OUT = {"": "samples.npz", "sweep": "sweep", "reconstruct": "scores.json", "samples": "scores.json"}

Record = dict[str, Any]
Config = RunConfig | SampleConfig
_ended = time.monotonic()  # when this process was last through with a part


class Program(NamedTuple):
    """A program of ours: its keys, what it finds, which keys count, and where its results go."""

    schema: type[RunConfig] | type[SampleConfig]
    find: Callable[[Any], Record]
    counts: Callable[[Any], bool]
    place: Callable[[Any, Path], str]


PROGRAMS = {
    "main.py": Program(
        RunConfig,
        of_run,
        lambda leaf: not leaf.free or leaf.key in _COUNTED or leaf.key.startswith("sampling."),
        lambda config, folder: f"out_dir={folder}",
    ),
    "FID_sample.py": Program(
        SampleConfig,
        of_samples,
        lambda leaf: leaf.key not in _UNCOUNTED,
        lambda config, folder: f"out={folder / _OUT[other_job(config)]}",
    ),
}


@dataclass(frozen=True)
class Part:
    """A command of a study, and the parts it stands on. `job` is that of FID_sample.py, if any."""

    stage: Stage
    key: str
    labels: tuple[str, ...]  # of the choices that it, or what it stands on, follows from
    needs: tuple["Part", ...]
    folder: Path
    file: str | None
    words: tuple[str, ...]
    job: str

    @property
    def command(self) -> str:
        """What makes it, as one would type it."""
        return shlex.join(["python", self.stage.program, *self.arguments])

    @property
    def arguments(self) -> list[str]:
        """Of that command, behind the name of its program."""
        return [*([self.file] if self.file else []), *self.words]

    @cached_property
    def config(self) -> Config:
        """All its settings."""
        return load_config(PROGRAMS[self.stage.program].schema, self.file, self.words)

    @property
    def name(self) -> str:
        """Its stage and its folder there."""
        return f"{self.stage.name}/{self.folder.name}"

    def record(self) -> Record | None:
        """What it has found, None unless it is finished."""
        return _read_record(self.folder, self.key)


class Parts:
    """The parts of a study below the folder `root`; each takes the `shared` words too.

    Cells that need the same get the same one.
    """

    def __init__(self, stages: Sequence[Stage], root: Path, shared: Sequence[str] = ()) -> None:
        self._stages, self._root, self._shared = stages, root, shared
        self._known: dict[str, Part] = {}  # by key
        self._keys: dict[tuple, str] = {}  # of what has been loaded

    def of(self, cell: Cell) -> dict[str, Part]:
        """Those of a cell, by stage. Raises UserError for settings that do not load."""
        parts: dict[str, Part] = {}
        for stage in self._stages:
            try:
                parts[stage.name] = self._part(cell, stage, parts)
            except UserError as error:
                raise UserError(
                    f"The stage {stage.name} of the cell {cell.name}: {error}"
                ) from None
        return parts

    def _part(self, cell: Cell, stage: Stage, parts: dict[str, Part]) -> Part:
        changes = [(c, choice.label) for choice in cell.choices for c in choice.changes]
        own = [(c, label) for c, label in changes if c.stage == stage.name]
        file = next((c.value for c, _ in reversed(own) if not c.key), stage.file)
        words = [*stage.words, *(f"{c.key}={c.value}" for c, _ in own if c.key)]
        named = dict.fromkeys(name for word in words for name in REFERENCE.findall(word))
        needs = tuple(parts[name] for name in named if name != SEED)
        chosen = tuple(c.key for c, label in own if label)

        def filled(told: Callable[[Part], object]) -> tuple[str, ...]:
            values = {name: told(parts[name]) for name in named if name != SEED}
            values[SEED] = cell.seed
            return tuple(REFERENCE.sub(lambda m: str(values[m[1]]), word) for word in words)

        by_key = (*filled(lambda part: f"@{part.key}"), *self._shared)
        loaded = (stage.name, file, by_key, chosen)
        if loaded not in self._keys:
            program = PROGRAMS[stage.program]
            config = load_config(program.schema, file, by_key)
            if isinstance(config, RunConfig) and config.job == "study":
                raise UserError("it is a study itself; name a YAML of another job.")
            recipe = _recipe(config, program, chosen)
            key = sha256(to_json([FORMAT, stage.program, recipe, [need.key for need in needs]]))
            if key not in self._known:
                labels = _labels(cell, stage, needs, seeded=SEED in named)
                folder = _folder(self._root / stage.name, file_name(labels), key)
                real = (*filled(lambda part: part.folder), *self._shared)
                real += (program.place(config, folder),)
                job = other_job(config) if isinstance(config, SampleConfig) else ""
                self._known[key] = Part(stage, key, labels, needs, folder, file, real, job)
            self._keys[loaded] = key
        return self._known[self._keys[loaded]]


def start_clock() -> None:
    """From now on it counts as idle that no part is run."""
    global _ended
    _ended = time.monotonic()


def run_part(part: Part) -> Record:
    """Run a part, or read what it has found. All ranks come here; the main one's record counts.

    A run that has diverged is finished, and its record says so. Raises whatever else ends it, such
    as a full disk: the same command goes on with such a part.
    """
    global _ended
    if known := part.record():
        return known
    for needed in part.needs:
        if needed.record() is None:
            raise UserError(f"{part.name} stands on {needed.name}, which is not finished; "
                            "run that first.")  # fmt: skip
    started = time.monotonic()
    idle = started - _ended
    if is_main():
        _clear(part)
        part.folder.mkdir(parents=True, exist_ok=True)
    barrier()
    found = PROGRAMS[part.stage.program].find(part.config)
    _let_go()
    _ended = time.monotonic()
    record = {
        **{"format": FORMAT, "key": part.key, "command": part.command, **found},
        "seconds": {"part": round(_ended - started, 2), "idle": round(idle, 2)},
    }
    if is_main():
        replace_file(part.folder / RECORD, to_json(record) + b"\n")
    barrier()
    return record


def in_one_process(part: Part) -> bool:
    """Whether its job knows no ranks."""
    return bool(part.job)


def missing_cache(part: Part) -> str:
    """A cache that it reads, others may read too, and no stage makes; empty if it is there."""
    if part.stage.program != "main.py" or part.record():
        return ""
    config = part.config
    assert isinstance(config, RunConfig)
    reads, cache = config.job == "generator" and config.data.tokens == "cache", config.data.cache
    made = any(Path(cache).is_relative_to(need.folder) for need in part.needs)
    return cache if reads and cache and not made and not has_cache(config) else ""


def _folder(place: Path, name: str, key: str) -> Path:
    """Where a part is finished, under whatever name, or else is to be made."""
    own = place / "-".join(filter(None, (name, key[:8])))
    found = [own, *sorted(place.glob(f"*-{key[:8]}")), place / key[:8]]
    return next((folder for folder in found if _read_record(folder, key)), own)


def _read_record(folder: Path, key: str) -> Record | None:
    file = folder / RECORD
    known = json.loads(file.read_text()) if file.is_file() else None
    return known if known and known["key"] == key else None


def _labels(cell: Cell, stage: Stage, needs: Sequence[Part], *, seeded: bool) -> tuple[str, ...]:
    """What tells a part from others of its stage: the choices that reach it, and the seed."""
    inherited = {label for need in needs for label in need.labels}
    reach = [
        choice.label
        for choice in cell.choices
        if choice.label
        and (choice.label in inherited or any(c.stage == stage.name for c in choice.changes))
    ]
    seed = f"{SEED}={cell.seed}"
    return (*reach, *([seed] if seeded or seed in inherited else []))


def _recipe(config: Config, program: Program, chosen: Sequence[str]) -> dict[str, str]:
    """Settings that a result follows from, and those that were `chosen`, unless by default.

    So a key that is new since then changes no part.
    """
    return {
        leaf.key: show_value(value)
        for leaf in leaves(program.schema)
        if (program.counts(leaf) or leaf.key in chosen)
        and (value := attrgetter(leaf.key)(config)) != leaf.default
    }


def _clear(part: Part) -> None:
    """Remove what a job that begins anew each time would refuse to write over."""
    if part.job in ("reconstruct", "samples"):
        shutil.rmtree(part.folder, ignore_errors=True)


def _let_go() -> None:
    """Give back the memory of what has just been run; the peak of the next is its own."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
