"""The record of a study: verdicts, thinned curves, and means over seeds."""

from types import SimpleNamespace
from typing import Any

import pytest

from MaskGIL.config import load_config
from Trainer.config import RunConfig
from Trainer.stages import Cell, Choice
from Trainer.study_record import POINTS, diverged, gathered, means_over_seeds, rows_of


@pytest.mark.parametrize(
    ("losses", "skipped", "reason"),
    [
        ([4.0, 3.0, 2.0], 0, ""),
        ([4.0, 2.0, 2.4], 0, ""),  # exactly 1.2 times
        ([4.0, 2.0, 2.5], 0, "last loss 1.25 times its least"),
        ([4.0, None], 0, "a loss that is not finite"),
        ([None, None], 2, "a loss that is not finite"),
        ([4.0, None, 2.0], 0, "a loss that is not finite"),
        ([4.0, 3.0, 2.0], 2, "2 steps not taken, as they were not finite"),
        ([], 0, ""),
    ],
)
def test_what_has_diverged(losses, skipped, reason):
    curve = {"step": list(range(len(losses))), "loss": losses}
    assert diverged(curve | {"skip": [*[0] * (len(losses) - 1), skipped]}, 1.2) == reason
    if not skipped:  # records of earlier versions do not count them
        assert diverged(curve, 1.2) == reason


def test_steps_left_out_as_spikes_are_no_divergence():
    """Even where they are all of a line, whose loss is None then."""
    curve = {"step": [1, 2, 3], "loss": [4.0, None, 3.0], "skip": [0, 2, 2], "spikes": [0, 2, 2]}
    assert diverged(curve, 1.2) == ""
    reason = "1 steps not taken, as they were not finite"
    assert diverged(curve | {"skip": [0, 2, 3]}, 1.2) == reason


def part(name, **found) -> Any:
    record = {"command": f"run {name}", "clock": {}, "seconds": {"part": 9.0, "idle": 1.0}, **found}
    return SimpleNamespace(name=name, record=lambda: record)


def trained(name, losses=(4.0, 3.0), ended="") -> Any:
    curve = {"step": list(range(len(losses))), "loss": list(losses)}
    return part(name, numbers={"loss": losses[-1]}, ended=ended, curves={"train": curve})


def test_a_row_is_judged_by_the_last_stage_that_trains():
    parts = {
        "tokenizer": trained("a", (1.0, 9.0)),
        "train": trained("b"),
        "sample": part("c", numbers={"distance": 5.0}),
    }
    (row,) = rows_of([(Cell("arm", {"x": "1"}, 3, ()), parts)], 1.2)
    assert (row["arm"], row["values"], row["seed"], row["diverged"]) == ("arm", {"x": "1"}, 3, "")
    assert row["numbers"] == {
        "tokenizer": {"loss": 9.0},
        "train": {"loss": 3.0},
        "sample": {"distance": 5.0},
    }
    assert row["curves"]["train"]["loss"] == [4.0, 3.0]
    assert row["commands"] == {"tokenizer": "run a", "train": "run b", "sample": "run c"}
    parts["train"] = trained("b", (1.0, 2.0))
    assert rows_of([(Cell("", {}, 0, ()), parts)], 1.2)[0]["diverged"] == (
        "last loss 2 times its least"
    )
    parts["tokenizer"] = trained("a", ended="It is over.")
    assert rows_of([(Cell("", {}, 0, ()), parts)], 1.2)[0]["diverged"] == "It is over."


def test_long_curves_are_thinned_and_keep_their_ends():
    losses = [1 / step for step in range(1, 501)]
    (row,) = rows_of([(Cell("", {}, 0, ()), {"train": trained("a", losses)})], 1.2)
    train = row["curves"]["train"]
    assert (len(train["step"]), train["step"][0], train["step"][-1]) == (POINTS, 0, 499)
    assert train["loss"] == [losses[step] for step in train["step"]]


def row(seed, tokenizer, distance, **values):
    parts = {"tokenizer": tokenizer, "sample": f"sample-{seed}-{values}"}
    numbers = {"tokenizer": {"psnr": 30.0}, "sample": {"distance": distance}}
    return {"arm": "a", "values": values, "seed": seed, "diverged": "", "parts": parts,
            "numbers": numbers}  # fmt: skip


def test_means_are_over_parts_each_once():
    rows = [row(0, "t", 1.0, lr="1"), row(1, "t", 3.0, lr="1"), row(0, "t", None, lr="2")]
    one, two = means_over_seeds(rows)
    assert (one["arm"], one["values"], one["seeds"], one["diverged"]) == ("a", {"lr": "1"}, 2, 0)
    distance = one["numbers"]["sample: distance"]
    assert distance == {"mean": 2.0, "deviation": pytest.approx(2**0.5), "number": 2}
    assert one["numbers"]["tokenizer: psnr"] == {"mean": 30.0, "deviation": None, "number": 1}
    assert two["numbers"]["sample: distance"]["mean"] is None


def test_a_seed_that_has_diverged_takes_no_number_of_the_others_away():
    rows = [row(0, "t", 1.0), row(1, "t", 3.0)]
    rows[0]["numbers"]["sample"] = {}
    for order in (rows, rows[::-1]):
        (told,) = means_over_seeds(order)
        assert told["numbers"]["sample: distance"] == {"mean": None, "deviation": None, "number": 1}


def test_distances_at_equal_sampling_time_are_means_over_seeds():
    def swept(name, seconds, distances):
        points = [{"measures": {"shapesnet-1 distance": distance}} for distance in distances]
        return part(name, numbers={}, points=points,
                    clock={"seconds per image of points": seconds})  # fmt: skip

    arms = [("a", 0), ("a", 1), ("b", 0), ("a", 2)]
    cells = [Cell(arm, {}, seed, (Choice(arm, ()),)) for arm, seed in arms]
    parts = [swept("1", [0.1, 0.4], [9.0, 3.0]), swept("2", [0.1, 0.3], [8.0, 1.0]),
             swept("3", [0.2], [6.0])]  # fmt: skip
    parts.append(parts[1])  # the same part, which counts once
    rows = rows_of([(cell, {"sweep": each}) for cell, each in zip(cells, parts)], 1.2)
    study = gathered(load_config(RunConfig, None, ["job=study"]), rows, parts)
    told = study["time"]["at equal sampling time"]["sweep"]
    assert told["seconds per image"] == 0.2
    assert [each["mean"] for each in told["distances"]] == [8.5, 6.0]
    assert [each["number"] for each in told["distances"]] == [2, 1]
    assert study["equal compute"] == 0.0


def test_the_time_is_that_of_the_parts(tmp_path):
    parts = [trained("a"), part("b", numbers={})]
    run = load_config(RunConfig, None, ["job=study"])
    rows = rows_of([(Cell("", {}, 0, ()), {"train": parts[0], "sample": parts[1]})], 1.2)
    time = gathered(run, rows, parts)["time"]
    assert (time["parts"], time["idle between parts"], time["idle share"]) == (18.0, 2.0, 0.1)
    assert list(time["seconds"]) == ["a", "b"]
