"""Distances at equal cost: of training, by counted operations, and of sampling, by seconds."""

import math

import pytest

from Trainer.equal_cost import COMPUTE, add_equal_compute, at_equal_seconds


def row(name, flops=0.0, steps=(), distances=()):
    numbers = {"tokenizer": {"steps": 5}, "train": {"steps": steps[-1] if steps else 9}}
    if flops:
        numbers["train"]["training teraFLOPs"] = flops
    curves = {"score": {"step": list(steps), "distance": list(distances)}} if steps else {}
    return {"name": name, "numbers": numbers, "curves": curves, "points": {}, "clock": {}}


def test_the_cheapest_training_sets_the_compute():
    cheap = row("a", 10.0, (100, 200), (8.0, 4.0))
    dear = row("b", 80.0, (10, 20), (9.0, 1.0))  # 40 and 80 teraFLOPs
    half = row("c", 40.0, (10, 80), (6.0, 2.0))  # 5 and 40
    silent = row("d", 40.0)
    assert add_equal_compute([cheap, dear, half, silent]) == 10.0
    told = [each["numbers"]["train"].get(COMPUTE, "none") for each in (cheap, dear, half, silent)]
    between = 6.0 - 4.0 * math.log(10 / 5) / math.log(40 / 5)
    assert told == [4.0, None, pytest.approx(between, rel=1e-4), "none"]


def test_one_training_alone_is_not_compared():
    alone = row("a", 10.0, (100,), (8.0,))
    assert add_equal_compute([alone, row("b"), row("c", 10.0, (5,), (None,))]) == 0.0
    assert COMPUTE not in alone["numbers"]["train"]


def test_a_training_that_has_diverged_lends_its_curve_to_no_stage_before():
    first, second = (row(name, 10.0, (100, 200), (8.0, 4.0)) for name in "ab")
    ended = row("c", 10.0, (100, 200), (8.0, 4.0))
    ended["numbers"] = {"before": ended["numbers"]["train"], "train": {"steps": 200}}
    assert add_equal_compute([first, second, ended]) == 10.0
    assert not any(COMPUTE in numbers for numbers in ended["numbers"].values())


def swept(name, seconds, distances):
    points = [{"measures": {"shapesnet-1 distance": distance}} for distance in distances]
    clock = {"seconds per image of points": seconds}
    return {**row(name), "points": {"sweep": points}, "clock": {"sweep": clock}}


def test_every_row_can_make_an_image_in_the_time():
    fast = swept("fast", [0.1, 0.2, 0.4], [9.0, 5.0, 3.0])
    slow = swept("slow", [0.3, 0.2], [1.0, 2.0])
    assert at_equal_seconds([fast, slow, row("none")]) == {
        "sweep": {"seconds per image": 0.2, "distance": {"fast": 5.0, "slow": 2.0}}
    }
