"""A sweep: one generator sampled by many samplers, each scored and timed, and told side by side.

Every cell (`Metrics.grid`) has a file of its own in OUT/cells, named by a hash of all that its
numbers follow from: what is finished is never made again.
"""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from MaskGIL.config import leaves, to_dict
from MaskGIL.distributed import world_size
from MaskGIL.durable import replace_file, sha256, to_json
from MaskGIL.effects import without_effect
from MaskGIL.output import check_writable
from MaskGIL.pipeline import Pipeline
from MaskGIL.predictor import Condition
from MaskGIL.prompting import Texts
from MaskGIL.sampling_keys import check_keys, load_pipeline, sampler_of
from MaskGIL.values import show_value
from Metrics.comparison import describe_device
from Metrics.conditions import (
    Conditions,
    choose_conditions,
    choose_null,
    labels_of,
    open_captions,
    take,
)
from Metrics.cost import ROUNDS, count_cost, machine, spread, time_in_turns
from Metrics.features import SHA256, load_feature_network
from Metrics.grid import Cell, cells_of
from Metrics.inception import open_inception, weights_sha256
from Metrics.jackknife import GROUPS
from Metrics.job import check_reference
from Metrics.judge import Judge
from Metrics.progress import Progress
from Metrics.record import Record, describe_ar_network, describe_sampler, describe_set
from Metrics.reference import open_reference_images
from Metrics.sample_and_eval import sample_rows
from Metrics.sample_config import SampleConfig, too_few_for_errors
from Metrics.seen import Seen
from Metrics.sweep_picture import draw_axes, draw_fronts
from Metrics.sweep_table import measures_in_words, to_markdown
from Network.condition import Captions
from Network.config import UserError

FORMAT = 1  # of a cell
OUT = "sweep"


class Sweep:
    """Everything opened and checked: after this only a machine can fail. Raises UserError."""

    def __init__(self, config: SampleConfig):
        if world_size() > 1:
            raise UserError("sweep works in one process: start it with python, not torchrun.")
        self.config = config
        self.out = Path(OUT if config.out == SampleConfig.out else config.out)
        if self.out.suffix in (".npz", ".json") or self.out.is_file():
            raise UserError(f"out={self.out} must be a folder: a sweep makes several files.")
        check_writable("out", self.out.absolute())
        self.pipe = load_pipeline(config)
        size, count = self.pipe.image_size, config.num_reference
        self.captions = open_captions(self.pipe, config, size)
        if self.captions and len(self.captions) < 2 * GROUPS:
            raise UserError(too_few_for_errors(len(self.captions)))
        self.cells, negative = cells_of(config.sweep, self.pipe), config.negative_prompt
        samplers = [cell.sampling for cell in self.cells]
        check_keys(config, self.pipe, samplers, negative_prompt=negative)
        self.reference = open_reference_images(
            config.reference, config.reference_split, size, count
        )
        check_reference(config, self.reference)
        self.conditions = choose_conditions(self.pipe, config, self.captions, self.reference)
        self.null = choose_null(self.pipe, config, self.conditions)
        self.ar_network = describe_ar_network(self.pipe)
        self.facts = {
            "set": describe_set(
                *(self.pipe, self.conditions, self.null),
                seed=config.seed,
                chunk=config.chunk,
                ema=config.ema,
            ),
            "reference": {
                "name": config.reference,
                "count": len(self.reference),
                **({"split": split} if (split := config.reference_split) != "val" else {}),
            },
            "features": {"shapesnet": SHA256, "inception": weights_sha256(config.inception)},
        }
        if (
            self.pipe.device.type != "cpu"
        ):  # of which finished cells of earlier versions say nothing
            self.facts["device"] = self.pipe.device.type

    def plan(self) -> str:
        """What will be done, for people."""
        config, (height, width) = self.config, self.pipe.image_size
        finished = len(self.cells) - len(self._missing())
        of = f"captions of {config.captions}" if self.captions else ", ".join(config.classes)
        lines = [
            f"cells      {len(self.cells)}, of which {finished} are finished",
            f"samples    {len(self.conditions):,} of {height}x{width} each, {of}, seed "
            f"{config.seed}, in chunks of {config.chunk}",
            f"device     {self.pipe.device}, {self.facts['set']['precision']}",
            f"reference  {self.reference.name}: {len(self.reference):,} images",
            f"out        {self.out}: sweep.json, sweep.md, sweep.png, axes.png, cells",
        ]
        return "\n".join(lines)

    def run(self, progress: Progress) -> str:
        """Measure the cells that are missing, time all, and write what comes of it.

        Returns the table. Raises UserError for a reference that has changed since a cell was made.
        """
        (self.out / "cells").mkdir(parents=True, exist_ok=True)
        if missing := self._missing():
            self._measure(missing, progress)
        else:
            images = progress(self.reference, "reference")
            self._check_finished(Seen(images, len(self.reference), extractors=()).sha256)
        record = self._gathered(self._timed())
        table = to_markdown(record)
        replace_file(self.out / "sweep.json", to_json(record) + b"\n")
        replace_file(self.out / "sweep.md", table.encode())
        draw_fronts(record, self.out / "sweep.png")
        draw_axes(record, self.out / "axes.png")
        return table

    def _identity(self, cell: Cell) -> Record:
        """All that the numbers of a cell follow from."""
        sampler = describe_sampler(cell.sampling, self.pipe.objective, self.ar_network)
        return {"format": FORMAT, **self.facts, "sampler": sampler}

    def _file(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{sha256(to_json(self._identity(cell)))[:12]}.json"

    def _missing(self) -> list[Cell]:
        return [cell for cell in self.cells if not self._file(cell).exists()]

    def _measure(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Sample, score and count cells, each on a line with the time that is left."""
        judge = self._open_judge(progress)
        work = [len(self.pipe.plan(cell.sampling)) for cell in cells]  # nearly so
        first, started = len(self.cells) - len(cells), time.monotonic()
        for number, cell in enumerate(cells, 1):
            images = CellImages(self.pipe, cell, self.conditions, self.null, self.config)
            scores = judge.score(progress(images, cell.title), images.labels)
            known = {
                "identity": self._identity(cell),
                **scores,
                "reference sha256": judge.sha256,
                "cost": count_cost(self.pipe, *self._batch(), cell.sampling),
                "machine": machine(self.pipe.device),
            }
            replace_file(self._file(cell), to_json(known) + b"\n")
            spent = time.monotonic() - started
            left = timedelta(seconds=round(spent * sum(work[number:]) / sum(work[:number])))
            told = measures_in_words(scores["measures"])
            print(
                f"cell {first + number}/{len(self.cells)} {cell.title}: {told}, {left} left",
                flush=True,
            )

    def _open_judge(self, progress: Progress) -> Judge:
        inception = open_inception(self.config.inception, self.pipe.device)
        extractors = [*([inception] if inception else []), load_feature_network()]
        images = progress(self.reference, "reference")
        drawn = self.captions if self.captions and self.captions.scenes else None
        texts = drawn.texts if drawn else ()
        judge = Judge(self.reference, images, extractors, self.pipe.classes, texts)
        self._check_finished(judge.sha256)
        return judge

    def _check_finished(self, reference_sha256: str) -> None:
        """Raise UserError if a finished cell was judged by other images."""
        for file in map(self._file, self.cells):
            if file.exists() and _read(file)["reference sha256"] != reference_sha256:
                raise UserError(
                    f"reference={self.config.reference} has changed since {file} was made; name "
                    "another out."
                )

    def _timed(self) -> Record:
        """Seconds per image of all cells, in one go: those of the last time if they are all there.

        Seconds of another device are not taken.
        """
        file, (batch, null) = self.out / "seconds.json", self._batch()
        names = {self._file(cell).stem: cell.sampling for cell in self.cells}
        if file.exists():
            known, here = _read(file), describe_device(self.pipe.device)
            if names.keys() <= known["seconds"].keys() and known["machine"]["device"] == here:
                return known
        print(f"timing {len(names)} cells, {ROUNDS} rounds of {len(batch)} images", flush=True)
        facts, seconds = machine(self.pipe.device), {name: ([], []) for name in names}
        for name, transformer, with_pixels in time_in_turns(self.pipe, batch, null, names):
            seconds[name][0].append(transformer)
            seconds[name][1].append(with_pixels)
        timed = {
            name: {"transformer": spread(transformer), "with pixels": spread(with_pixels)}
            for name, (transformer, with_pixels) in seconds.items()
        }
        record = {"images": len(batch), "rounds": ROUNDS, "machine": facts, "seconds": timed}
        replace_file(file, to_json(record) + b"\n")
        return record

    def _gathered(self, timed: Record) -> Record:
        """The record of the sweep."""
        cells = []
        for cell in self.cells:
            known = _read(self._file(cell))
            cells.append(
                {
                    "title": cell.title,
                    "series": cell.series,
                    "values": cell.values,
                    "sampling": to_dict(cell.sampling),
                    "measures": known["measures"],
                    "cost": known["cost"],
                    "seconds": timed["seconds"][self._file(cell).stem],
                    "sha256": known["sha256"],
                    "command": self._command(cell),
                }
            )
        about = {key: timed[key] for key in ("images", "rounds", "machine")}
        return {
            "what": "a sweep of sampler settings",
            "sweep": list(self.config.sweep),
            **self.facts,
            "timing": about,
            "cells": cells,
        }

    def _command(self, cell: Cell) -> str:
        """What makes the set of a cell as a file: no key that has no effect there."""
        given = {
            leaf.key: value
            for leaf in leaves(SampleConfig)
            if (value := attrgetter(leaf.key)(self.config)) != leaf.default
        }
        given |= {**cell.values, "out": f"{self._file(cell).stem}.npz"}
        sampler = sampler_of(self.pipe, cell.sampling)
        idle = {"sweep", *without_effect(sampler)}
        if sampler.kind == "mar":
            idle.add("ar_weights")
        words = [f"{key}={show_value(value)}" for key, value in given.items() if key not in idle]
        return shlex.join(["python", "FID_sample.py", *words])

    def _batch(self) -> tuple[Condition, Captions | None]:
        """Labels (B,) or captions of the first chunk, and what guidance leads away from."""
        rows = range(min(self.config.chunk, len(self.conditions)))
        null = self.null[: len(rows)] if self.null else None
        return take(self.conditions, rows, self.pipe.device), null


class CellImages:
    """The images of a cell with labels (N,) or captions, sampled when they are asked for."""

    def __init__(
        self,
        pipe: Pipeline,
        cell: Cell,
        conditions: Conditions,
        null: Texts | None,
        config: SampleConfig,
    ) -> None:
        self.labels = labels_of(conditions)
        self._conditions, self._null = conditions, null
        self._pipe, self._sampling, self._config = pipe, cell.sampling, config

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8, in chunks as those of FID_sample.py: the same bytes."""
        self._pipe.sampling = self._sampling
        for start in range(0, len(self), self._config.chunk):
            rows = range(start, min(start + self._config.chunk, len(self)))
            given = self._pipe, self._conditions, self._config.seed
            yield sample_rows(*given, rows, null=self._null)


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))
