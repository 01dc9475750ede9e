"""The record of a study: a row for each cell, what its parts have found, means over seeds."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from MaskGIL.config import to_dict
from MaskGIL.data.sampler import spread
from Trainer.config import RunConfig
from Trainer.equal_cost import add_equal_compute, at_equal_seconds
from Trainer.parts import Part
from Trainer.run_folder import environment
from Trainer.stages import Cell
from Trainer.study_picture import largest_stable

POINTS = 64  # of a curve that the record keeps

Record = dict[str, Any]


def rows_of(grid: Sequence[tuple[Cell, Mapping[str, Part]]], factor: float) -> list[Record]:
    """A row for each cell, whose parts are finished: what they have found, by stage, and how.

    The curves, and whether it has diverged, are those of the last stage that trains; what ended a
    stage before is told too.
    """
    return [_row(cell, parts, factor) for cell, parts in grid]


def gathered(config: RunConfig, rows: list[Record], parts: Sequence[Part]) -> Record:
    """The record of a study: how it was made, its rows, their means over seeds, and the time.

    What a clock has told stands under "time", "seconds" and "clock"; all else follows from the
    settings. Seconds of a part that was interrupted are those of its last attempt.
    """
    budget = add_equal_compute(rows)
    seconds = {part.name: _finished(part)["seconds"] for part in parts}
    spent, idle = (sum(each[name] for each in seconds.values()) for name in ("part", "idle"))
    return {
        "what": "a grid of runs",
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "study": to_dict(config.study),
        "environment": {**environment(), "threads": torch.get_num_threads()},
        "time": {
            "parts": round(spent, 1),
            "idle between parts": round(idle, 1),
            "idle share": round(idle / (idle + spent), 4) if spent else 0.0,
            "seconds": seconds,
            "at equal sampling time": _over_seeds(at_equal_seconds(rows), rows),
        },
        "equal compute": budget,  # teraFLOPs of training
        "largest_stable": largest_stable(rows),
        "means": means_over_seeds(rows),
        "cells": rows,
    }


def means_over_seeds(rows: Sequence[Record]) -> list[Record]:
    """Of each arm with each of its values: mean, standard deviation and number, by "STAGE: NAME".

    The deviation is that of a sample, None for a single part, such as a tokenizer that all seeds
    stand on; a number that one of them lacks is None.
    """
    found = []
    for group in _grouped(rows):
        named = {
            (stage, name): None
            for stage in group[0]["numbers"]
            for row in group
            for name in row["numbers"][stage]
        }
        numbers = {
            f"{stage}: {name}": _about(
                [row["numbers"][stage].get(name) for row in each_part(group, stage)]
            )
            for stage, name in named
        }
        first = {name: group[0][name] for name in ("arm", "values")}
        ended = sum(bool(row["diverged"]) for row in group)
        found.append({**first, "seeds": len(group), "diverged": ended, "numbers": numbers})
    return found


def each_part(rows: Sequence[Record], stage: str) -> list[Record]:
    """Rows of which no two have the same part in a stage: what several seeds share counts once."""
    return list({row["parts"][stage]: row for row in rows}.values())


def diverged(curve: Mapping[str, list[Any]], factor: float) -> str:
    """Why the training curve of a run tells that it has diverged, or an empty text.

    It has where a step was not taken as it was not finite, and where the last loss is above
    `factor` times the least. A loss of None tells that no step of its line was taken; that is no
    divergence where loop.skip_spikes left them all out.
    """
    finite = [loss for loss in curve["loss"] if loss is not None]
    skipped, spikes = (next(reversed(curve.get(name, [])), 0) for name in ("skip", "spikes"))
    if len(finite) < len(curve["loss"]) and not spikes:
        return "a loss that is not finite"
    if skipped > spikes:
        return f"{skipped - spikes} steps not taken, as they were not finite"
    if not finite:
        return ""
    excess = finite[-1] / min(finite)
    return f"last loss {excess:.3g} times its least" if excess > factor else ""


def _row(cell: Cell, parts: Mapping[str, Part], factor: float) -> Record:
    found = {stage: _finished(part) for stage, part in parts.items()}
    trained = [record for record in found.values() if "curves" in record]
    ended = [record["ended"] for record in trained if record["ended"]]
    curves = trained[-1]["curves"] if trained else {}
    if trained and not ended and (reason := diverged(curves["train"], factor)):
        ended = [reason]
    own = {name: getattr(cell, name) for name in ("name", "arm", "values", "seed")}
    return {
        **own,
        "diverged": "; ".join(ended),
        "parts": {stage: part.name for stage, part in parts.items()},
        "commands": {stage: record["command"] for stage, record in found.items()},
        "numbers": {stage: record["numbers"] for stage, record in found.items()},
        "points": {s: record["points"] for s, record in found.items() if "points" in record},
        "clock": {stage: record["clock"] for stage, record in found.items()},
        "curves": {kind: _thinned(curve) for kind, curve in curves.items()},
    }


def _finished(part: Part) -> Record:
    record = part.record()
    assert record is not None, part.name
    return record


def _grouped(rows: Sequence[Record]) -> list[list[Record]]:
    """Rows that differ by their seeds only."""
    groups: dict[tuple, list[Record]] = {}
    for row in rows:
        groups.setdefault((row["arm"], *row["values"].items()), []).append(row)
    return list(groups.values())


def _over_seeds(found: Mapping[str, Record], rows: Sequence[Record]) -> Record:
    """What `at_equal_seconds` tells of rows, as means in the order of `means_over_seeds`."""
    return {
        stage: {
            "seconds per image": told["seconds per image"],
            "distances": [
                _about([told["distance"].get(row["name"]) for row in each_part(group, stage)])
                for group in _grouped(rows)
            ],
        }
        for stage, told in found.items()
    }


def _about(values: Sequence[float | None]) -> Record:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "deviation": None, "number": len(known)}
    deviation = stdev(known) if len(known) > 1 else None
    return {"mean": mean(known), "deviation": deviation, "number": len(known)}


def _thinned(curve: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Up to POINTS points of a curve, first and last among them."""
    return {
        name: [values[i] for i in spread(len(values), POINTS)] for name, values in curve.items()
    }
