"""Distances of a study's rows where they have cost the same: operations of training, or seconds.

Rows are those of `study_record`. Training is compared along the distances that a run tells while it
trains (loop.score_every), sampling along the settings that a stage sweeps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

COMPUTE, DISTANCE = "distance at equal compute", "shapesnet-1 distance"
Record = dict[str, Any]


def add_equal_compute(rows: Sequence[Record]) -> float:
    """Give each row its distance where the cheapest training ends; returns those teraFLOPs.

    Between two scores it is interpolated over the logarithm of the operations; None for a row
    whose first score is later. 0 and nothing added where fewer than two rows tell distances.
    """
    told = [
        (row, stage, curve)
        for row in rows
        if (stage := _trained(row)) and (curve := _scores(row, stage))
    ]
    if len(told) < 2:
        return 0.0
    budget = min(curve[0][-1] for _, _, curve in told)
    for row, stage, (flops, distances) in told:
        found = np.interp(np.log(budget), np.log(flops), distances)
        within = flops[0] <= budget
        row["numbers"][stage][COMPUTE] = float(f"{found:.5g}") if within else None
    return budget


def at_equal_seconds(rows: Sequence[Record]) -> dict[str, Record]:
    """Of each stage that sweeps: the seconds per image in which every row can make one, and the
    least distance of each row within them, by its name.
    """
    found: dict[str, Record] = {}
    for stage in dict.fromkeys(stage for row in rows for stage in row["points"]):
        points = {
            row["name"]: list(zip(row["clock"][stage]["seconds per image of points"], distances))
            for row in rows
            if (distances := [p["measures"][DISTANCE] for p in row["points"].get(stage, ())])
        }
        budget = max(min(seconds for seconds, _ in each) for each in points.values())
        least = {
            name: min(distance for seconds, distance in each if seconds <= budget)
            for name, each in points.items()
        }
        found[stage] = {"seconds per image": budget, "distance": least}
    return found


def _trained(row: Record) -> str:
    """The last stage that trains, which the curves of a row are of, or none."""
    trained = [name for name, found in row["numbers"].items() if "steps" in found]
    return trained[-1] if trained else ""


def _scores(row: Record, stage: str) -> tuple[np.ndarray, np.ndarray] | None:
    """TeraFLOPs and distances of a training, where it has told any and has not diverged."""
    curve, numbers = row["curves"].get("score"), row["numbers"][stage]
    if not curve or None in curve["distance"] or "training teraFLOPs" not in numbers:
        return None
    flops = np.array(curve["step"]) / numbers["steps"] * numbers["training teraFLOPs"]
    return flops, np.array(curve["distance"])
