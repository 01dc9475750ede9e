"""A study: a grid of ordinary runs, one folder each, gathered into one record and one picture.

Every arm of `study.arms` meets every value of `study.axes` and every seed. What else a cell is made
of are the keys of the study itself. Cells that have ended are not run again.
"""

import contextlib
import json
import math
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from MaskGIL.command import PREEMPTED
from MaskGIL.config import leaves, load_config, to_dict, to_yaml
from MaskGIL.data.sampler import spread
from MaskGIL.distributed import is_main, world_size
from MaskGIL.durable import replace_file, sha256, to_json
from MaskGIL.values import quote, show_value
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.generator_data import has_cache, write_caches
from Trainer.guard import Diverged
from Trainer.lock import only_job
from Trainer.logger import format_seconds
from Trainer.run_folder import environment
from Trainer.study_picture import draw_study, largest_stable
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer

TRAINERS = {"generator": GeneratorTrainer, "tokenizer": TokenizerTrainer}
POINTS = 64  # of a curve that the record keeps
KEPT = ("loss", "acc", "psnr", "gnorm", "skip")  # numbers of a curve, where there are such
# Keys that a cell does not take over
_OWN = (
    *("job", "out_dir", "report", "compare", "seed"),
    *("study.job", "study.arms", "study.axes", "study.seeds", "study.workers"),
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    arm: str
    values: dict[str, str]  # of the axes, as they are written
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """What its folder is called."""
        return Path(self.config.out_dir).name


def run_study(config: RunConfig) -> None:
    """The job `study`: run what is missing, write OUT_DIR/study.json and OUT_DIR/study.png.

    Raises UserError for rows that cannot be read, for cells that would share a folder, and whatever
    a cell raises before its first step.
    """
    if config.study.workers and world_size() > 1:
        raise UserError(
            f"study.workers={config.study.workers} starts processes of its own; leave torchrun "
            "out, or use study.workers=0, which runs every cell on all ranks."
        )
    cells, folder = list(cells_of(config)), Path(config.out_dir)
    with only_job(folder):
        if is_main():  # it makes the folder ours
            replace_file(folder / "config.yaml", to_yaml(config).encode())
        _write_shared_caches(cells)
        records: list[Record] = []
        for cell, record in zip(cells, _records(cells, config.study.workers)):
            records.append(record)
            _tell(f"cell {len(records)}/{len(cells)} {cell.name}: {_in_words(record)}")
        if is_main():
            study = gathered(config, records)
            replace_file(folder / "study.json", to_json(study) + b"\n")
            draw_study(study, folder / "study.png")
            _tell(f"wrote {folder / 'study.json'} and {folder / 'study.png'}")


def cells_of(config: RunConfig) -> Iterator[Cell]:
    """The cells of a study, seeds last. Raises UserError as `run_study` does."""
    study, found = config.study, set()
    arms = [_read_arm(row) for row in study.arms] or [("", [])]
    axes = [_read_axis(row) for row in study.axes]
    for (arm, changes), values, seed in product(arms, list(product(*axes)), study.seeds):
        words = [arm, *(f"{key}={value}" for key, value in values), f"seed={seed}"]
        name = "_".join(re.sub(r"[^\w.=+]+", "-", word).strip("-") for word in words if word)
        if name in found:
            raise UserError(f"study.arms and study.axes make two cells {name}; name them apart.")
        found.add(name)
        own = [f"job={study.job}", f"out_dir={Path(config.out_dir) / name}", *words[1:]]
        try:
            cell = load_config(RunConfig, None, [*_base(config), *changes, *own])
        except UserError as error:
            raise UserError(f"The cell {name} of the study: {error}") from None
        yield Cell(arm, dict(values), seed, cell)


def run_cell(cell: Cell) -> Record:
    """Run a cell, or read the record of one that has ended: its verdict and its curves.

    A run that has ended because it diverged is recorded with the sentence it ended with. Raises
    whatever else ends it, such as a full disk: the same command runs such a cell again.
    """
    file, recipe = Path(cell.config.out_dir) / "cell.json", _recipe(cell.config)
    if file.is_file() and (known := json.loads(file.read_text()))["recipe"] == recipe:
        return known
    started, ended = time.monotonic(), ""
    trainer = TRAINERS[cell.config.job](cell.config)
    try:
        trainer.fit()
    except Diverged as error:
        ended = str(error)
    curves = read_curves(file.parent / "metrics.jsonl")
    record = {
        **{"name": cell.name, "arm": cell.arm, "values": cell.values, "seed": cell.seed},
        "diverged": ended or diverged(curves["train"], cell.config.study.diverged),
        "steps": trainer.step,
        "seconds": round(time.monotonic() - started, 1),
        "recipe": recipe,
        "curves": curves,
    }
    if is_main():
        replace_file(file, to_json(record))
    return record


def diverged(curve: dict[str, list[Any]], factor: float) -> str:
    """Why the training curve of a run tells that it has diverged, or an empty text.

    It has where a loss is not finite (None) or a step was not taken for that reason, and where the
    last loss is above `factor` times the least.
    """
    finite = [loss for loss in curve["loss"] if loss is not None]
    if len(finite) < len(curve["loss"]):
        return "a loss that is not finite"
    if skipped := curve.get("skip", [0])[-1]:
        return f"{skipped} steps not taken, as they were not finite"
    excess = finite[-1] / min(finite)
    return f"last loss {excess:.3g} times its least" if excess > factor else ""


def read_curves(file: Path) -> dict[str, dict[str, list[Any]]]:
    """Curves of a run by kind: {"train": {"step": [...], "loss": [...]}}, numbers not finite None.

    The train curve is empty where a run has ended before its first line. The verdict needs the
    least loss, so it is thinned by `gathered` alone.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    curves: dict[str, dict[str, list[Any]]] = {"train": {"step": [], "loss": []}}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        names = ["step", *(name for name in KEPT if name in own[0])]
        curves[kind] = {name: [_number(row.get(name)) for row in own] for name in names}
    return curves


def gathered(config: RunConfig, records: list[Record]) -> Record:
    """The record of a study: how it was made, what was stable, and every cell, its curves thin."""
    cells = []
    for record in records:
        curves = {kind: _thinned(curve) for kind, curve in record["curves"].items()}
        cells.append({**{k: v for k, v in record.items() if k != "recipe"}, "curves": curves})
    return {
        "what": "a grid of runs",
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "study": to_dict(config.study),
        "environment": {**environment(), "threads": torch.get_num_threads()},
        "largest_stable": largest_stable(cells),
        "cells": cells,
    }


def _thinned(curve: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Up to POINTS points of a curve, first and last among them."""
    return {
        name: [values[i] for i in spread(len(values), POINTS)] for name, values in curve.items()
    }


def _records(cells: list[Cell], workers: int) -> Iterator[Record]:
    """What the cells record, in their order."""
    if not workers:
        yield from map(run_cell, cells)
        return
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be forked
    with ProcessPoolExecutor(workers, spawn, _start_process, (threads,)) as pool:
        yield from pool.map(_run_quietly, cells)


def _start_process(threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run whose study is gone saves and ends, as a signal makes it; then so does its process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    os._exit(PREEMPTED)


def _run_quietly(cell: Cell) -> Record:
    """Lines of several runs at once would mix; each has its log.txt."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return run_cell(cell)


def _write_shared_caches(cells: list[Cell]) -> None:
    """Caches that several cells read, before they run: two must not write one at once."""
    for folder in dict.fromkeys(cell.config.data.cache for cell in cells):
        first = next(cell.config for cell in cells if cell.config.data.cache == folder)
        shared = folder and first.job == "generator" and first.data.tokens == "cache"
        if shared and not has_cache(first):
            write_caches(replace(first, job="cache"))


def _base(config: RunConfig) -> Iterator[str]:
    """The keys of a study that its cells begin with, as words; what follows a size is left out."""
    for leaf in leaves(RunConfig):
        value = attrgetter(leaf.key)(config)
        filled_in = leaf.follows and attrgetter(leaf.follows)(config)
        if value != leaf.default and not filled_in and leaf.key not in _OWN:
            yield f"{leaf.key}={'' if value in ('', ()) else show_value(value)}"


def _read_arm(row: str) -> tuple[str, list[str]]:
    """NAME KEY=VALUE ... -> the name, which may have blanks, and the changes."""
    words = shlex.split(row)
    changes = [word for word in words if "=" in word]
    name = " ".join(words[: len(words) - len(changes)])
    if not name or words[len(words) - len(changes) :] != changes:
        raise UserError(f"study.arms has a row {quote(row)}; write NAME KEY=VALUE KEY=VALUE.")
    return name, changes


def _read_axis(row: str) -> list[tuple[str, str]]:
    """KEY=VALUE VALUE ... -> each value with its key."""
    key, equals, values = row.partition("=")
    if not equals or not values.split():
        raise UserError(f"study.axes has a row {quote(row)}; write KEY=VALUE VALUE VALUE.")
    return [(key.strip(), value) for value in shlex.split(values)]


def _recipe(config: RunConfig) -> str:
    """A hash of what a cell is: of its identity, as far as it is not the default, and its steps.

    So a key that is new since then changes no cell.
    """
    own = {
        leaf.key: show_value(value)
        for leaf in leaves(RunConfig)
        if not leaf.free and (value := attrgetter(leaf.key)(config)) != leaf.default
    }
    return sha256(to_json([own, config.loop.steps, config.study.diverged]))


def _number(value: Any) -> Any:
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _in_words(record: Record) -> str:
    losses = [loss for loss in record["curves"]["train"]["loss"] if loss is not None]
    verdict = f"diverged: {record['diverged']}" if record["diverged"] else "stable"
    last = f"loss {losses[-1]:.4g}, " if losses else ""
    return f"{last}{verdict}, {format_seconds(record['seconds'])}"


def _tell(text: str) -> None:
    if is_main():
        print(text, flush=True)
