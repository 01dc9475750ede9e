"""A study: a grid of commands in stages, whose parts are run once each and gathered in one record.

What a part is, and when it is finished, `parts.py` tells; what the rows mean, `stages.py`.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from MaskGIL.command import PREEMPTED
from MaskGIL.config import leaves, to_yaml
from MaskGIL.distributed import is_main, world_size
from MaskGIL.durable import replace_file, to_json
from MaskGIL.values import show_value
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.generator_data import write_caches
from Trainer.job_array import write_job_array
from Trainer.lock import only_job
from Trainer.logger import format_seconds
from Trainer.parts import Part, Parts, in_one_process, missing_cache, run_part, start_clock
from Trainer.stages import Cell, Stage, read_cells, read_stages
from Trainer.study_numbers import draw_blocks, draw_numbers
from Trainer.study_picture import draw_study
from Trainer.study_points import draw_points
from Trainer.study_record import gathered, rows_of
from Trainer.study_table import to_markdown

_SHARED = ("device", "precision")  # keys of a study that all its parts take over
_OWN = ("job", "out_dir", "report", "compare", "seed")  # those that mean something else to them

PICTURES = {
    "study.png": draw_study,
    "numbers.png": draw_numbers,
    "blocks.png": draw_blocks,
    "points.png": draw_points,
}

Record = dict[str, Any]
Grid = list[tuple[Cell, dict[str, Part]]]  # each cell with its parts by stage


def run_study(config: RunConfig) -> None:
    """The job `study`: run what is missing, write study.json, study.md and pictures in OUT_DIR.

    Raises UserError for rows that cannot be read, for cells that would share a folder, and whatever
    a part raises before it begins.
    """
    start_clock()
    grid, folder = grid_of(config), Path(config.out_dir)
    parts = parts_in_order(grid)
    _check(config, parts)
    if config.study.slurm:
        if is_main():
            _keep(config, folder)
            print(f"wrote {write_job_array(folder, parts)}: read it, then run it with bash")
        return
    if config.study.part:
        if not (folder / "config.yaml").exists():
            _keep(config, folder)
        _run_alone(parts, config.study.part)
        return
    with only_job(folder):
        _keep(config, folder)
        done = {part.key for part in parts if part.record()}
        for number, (part, record) in enumerate(_records(parts, config.study.workers), 1):
            told = "done already, " * (part.key in done) + _in_words(record)
            _tell(f"part {number}/{len(parts)} {part.name}: {told}")
        if is_main():
            write_record(config, grid, folder)


def grid_of(config: RunConfig) -> Grid:
    """The cells of a study and their parts. Raises UserError as `run_study` does."""
    study, root = config.study, Path(config.study.parts or config.out_dir)
    if config.seed:
        raise UserError(
            f"seed={config.seed} has no effect on a study; write study.seeds={config.seed}."
        )
    own = [*_changed(config)]
    if study.stages:
        stages = read_stages(study.stages)
        shared = [word for key, word in own if key in _SHARED]
        if idle := [key for key, _ in own if key not in _SHARED]:
            raise UserError(
                f"{idle[0]} has no effect on a study with stages; change it there, "
                f"study.changes=STAGE:{idle[0]}=VALUE."
            )
    else:
        words = [f"job={study.job}", "seed=@seed", *(word for _, word in own)]
        stages, shared = [Stage("train", "main.py", None, tuple(words))], []
    cells = read_cells(study, stages)
    parts = Parts(stages, root, shared)
    return [(cell, parts.of(cell)) for cell in cells]


def parts_in_order(grid: Grid) -> list[Part]:
    """Every part once, stage by stage: what a part stands on comes before it."""
    found: dict[str, Part] = {}
    for name in grid[0][1] if grid else ():
        for _, parts in grid:
            found.setdefault(parts[name].key, parts[name])
    return list(found.values())


def write_record(config: RunConfig, grid: Grid, folder: Path) -> None:
    """Gather what all parts have found, which are finished."""
    study = gathered(config, rows_of(grid, config.study.diverged), parts_in_order(grid))
    replace_file(folder / "study.json", to_json(study) + b"\n")
    replace_file(folder / "study.md", to_markdown(study).encode())
    for name, draw in PICTURES.items():
        (folder / name).unlink(missing_ok=True)  # of an earlier record, where nothing is drawn now
        draw(study, folder / name)
    share = study["time"]["idle share"]
    _tell(f"wrote study.json, study.md and pictures in {folder}; {share:.1%} idle between parts")


def describe(config: RunConfig) -> Iterator[str]:
    """What `--dry-run` tells of a study: every part, whether it is done, and its command."""
    parts = parts_in_order(grid := grid_of(config))
    done = [part.record() is not None for part in parts]
    yield f"{'study':16s} {len(grid)} cells, {len(parts)} parts, of which {sum(done)} are done"
    for number, (part, is_done) in enumerate(zip(parts, done), 1):
        yield f"{f'part {number}':16s} {'done' if is_done else 'to do'}: {part.command}"


def _check(config: RunConfig, parts: Sequence[Part]) -> None:
    """Raise UserError for what the parts could not be run with."""
    study = config.study
    if study.part > len(parts):
        raise UserError(f"study.part={study.part} is not there; the study has {len(parts)} parts.")
    if study.workers and not study.part and world_size() > 1:
        raise UserError(
            f"study.workers={study.workers} starts processes of its own; leave torchrun "
            "out, or use study.workers=0, which runs every part on all ranks."
        )
    asked = [parts[study.part - 1]] if study.part else parts
    if world_size() > 1 and (alone := [part for part in asked if in_one_process(part)]):
        raise UserError(
            f"The stage {alone[0].stage.name} works in one process: start it with python, not "
            "torchrun; study.slurm=true writes jobs that do."
        )


def _keep(config: RunConfig, folder: Path) -> None:
    """Write what makes the folder ours, for the whole study; jobs of an array read it too."""
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        whole = replace(config, study=replace(config.study, part=0, slurm=False))
        replace_file(folder / "config.yaml", to_yaml(whole).encode())


def _run_alone(parts: Sequence[Part], number: int) -> None:
    part = parts[number - 1]
    _tell(f"part {number}/{len(parts)} {part.name}: {_in_words(run_part(part))}")


def _records(parts: Sequence[Part], workers: int) -> Iterator[tuple[Part, Record]]:
    """What the parts have found, as they end; each begins behind those it stands on.

    Whatever ends one part ends all that run with it; the same command goes on with them.
    """
    if not workers:
        for part in parts:
            yield part, run_part(part)
        return
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be forked
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    waiting, running, ended = list(parts), {}, set()
    pool = ProcessPoolExecutor(workers, spawn, _start_process, (threads,))
    try:
        while waiting or running:
            ready = [part for part in waiting if {need.key for need in part.needs} <= ended]
            for part in ready[: workers - len(running)]:
                if missing_cache(part):  # which two of them must not write at once
                    write_caches(part.config)
                running[pool.submit(_run_quietly, part)] = part
                waiting.remove(part)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(future)
                ended.add(part.key)
                yield part, future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(threads: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a process that dies as it waits blocks others
        signal.signal(number, signal.SIG_IGN)
    start_clock()
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run whose study is gone saves and ends, as a signal makes it; then so does its process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 60
    while time.monotonic() < end and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        time.sleep(0.1)
    os._exit(PREEMPTED)


def _run_quietly(part: Part) -> Record:
    """Lines of several parts at once would mix; each run has its log.txt.

    At SIGTERM a run saves and ends, anything else ends at once.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return run_part(part)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _changed(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Keys that a study sets beside its own, and as words; what follows a size is left out."""
    for leaf in leaves(RunConfig):
        value = attrgetter(leaf.key)(config)
        filled_in = leaf.follows and attrgetter(leaf.follows)(config)
        is_own = leaf.key in _OWN or leaf.key.startswith("study.")
        if value != leaf.default and not filled_in and not is_own:
            yield leaf.key, f"{leaf.key}={'' if value in ('', ()) else show_value(value)}"


def _in_words(record: Record) -> str:
    facts = [record["ended"]] if record.get("ended") else []
    numbers = [f"{name} {value:.4g}" for name, value in record["numbers"].items() if value]
    return ", ".join([*facts, *numbers[:4], format_seconds(record["seconds"]["part"])])


def _tell(text: str) -> None:
    if is_main():
        print(text, flush=True)
