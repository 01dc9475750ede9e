"""The table of a sweep, and who lies on a Pareto front."""

import pytest

from Metrics.sweep_table import (
    COSTS,
    behind,
    front,
    goodness,
    measures_in_words,
    ranked,
    to_markdown,
)


def cell(title, distance, accuracy=0.5, steps=1, seconds=0.1, gigaflops=1.0, **values):
    return {
        "title": title,
        "series": "",
        "values": values,
        "sampling": {"plan": "auto", "num_steps": steps, "guidance_scale": 1.0, **values},
        "measures": {
            "distance": {"value": distance, "error": 0.25, "without": [distance + 1, distance]},
            "class accuracy": {"value": accuracy, "error": 0.031, "without": [accuracy] * 2},
        },
        "cost": {"sequential steps": steps, "network passes": 2.0 * steps, "gigaflops": gigaflops},
        "seconds": {
            "transformer": {"median": seconds},
            "with pixels": {"median": seconds + 1},
        },
    }


def record(*cells, count=40):
    return {
        "set": {"num_images": count, "seed": 0, "precision": "fp32", "network_sha256": "a" * 64},
        "reference": {"name": "shapes:64", "count": 64},
        "timing": {"images": 16, "rounds": 3, "machine": {"device": "cpu", "load": [1.25]}},
        "cells": list(cells),
    }


CELLS = [
    cell("slow", 9.0, steps=16, seconds=0.4, gigaflops=3.0),
    cell("best", 4.0, 0.9, steps=8, seconds=0.3, gigaflops=2.0),
    cell("fast", 30.0, 0.2, steps=1, seconds=0.1, gigaflops=1.0),
    cell("small", 20.0, 0.95, steps=2, seconds=0.2, gigaflops=0.5),
]


def test_the_best_come_first_and_fronts_are_marked():
    head, rule, *rows = [
        line for line in to_markdown(record(*CELLS)).splitlines() if line.startswith("|")
    ]
    assert [word.strip() for word in head.strip("|").split("|")] == [
        *("sampler", "no.", "distance", "class accuracy", "behind no. 1"),
        *("s/image", "with pixels", "steps", "passes", "GFLOP"),
    ]
    assert set(rule) == set("|-: ")
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    words = [[word.strip() for word in row.strip("|").split("|")] for row in rows]
    assert [row.pop(4) for row in words] == ["", *(f"{n}.0000 ± 0.0000" for n in (5, 16, 26))]
    assert words == [
        ["best", "1", "4.00 ± 0.25", "0.900 ± 0.031", "0.3 *", "1.3", "8 *", "16", "2 *"],
        ["slow", "2", "9.00 ± 0.25", "0.500 ± 0.031", "0.4", "1.4", "16", "32", "3"],
        ["small", "3", "20.00 ± 0.25", "0.950 ± 0.031", "0.2 *", "1.2", "2 *", "4", "0.5 *"],
        ["fast", "4", "30.00 ± 0.25", "0.200 ± 0.031", "0.1 *", "1.1", "1 *", "2", "1"],
    ]


def test_a_front_has_whom_nobody_beats_for_as_much_or_less():
    for name, cost in COSTS.items():
        for measure in ("distance", "class accuracy"):
            found = front(CELLS, cost, measure)
            for each in CELLS:
                beaten = any(
                    cost(other) <= cost(each) and goodness(other, measure) > goodness(each, measure)
                    for other in CELLS
                )
                assert (each in found) != beaten, (name, measure, each["title"])


def test_of_equals_one_is_enough():
    twins = [cell("one", 5.0), cell("two", 5.0)]
    assert front(twins, COSTS["sequential steps"], "distance") == twins[:1]


def test_more_accuracy_and_less_distance_are_better():
    assert goodness(CELLS[1], "distance") > goodness(CELLS[0], "distance")
    assert goodness(CELLS[1], "class accuracy") > goodness(CELLS[0], "class accuracy")
    assert [each["title"] for each in ranked(record(*CELLS))] == ["best", "slow", "small", "fast"]


def test_the_error_of_a_difference_is_smaller_where_chance_is_shared():
    """Of sets that vary together the difference is known well, of others as their errors add up."""
    one, two = cell("one", 9.0), cell("two", 4.0)
    one["measures"]["distance"]["without"] = [9.0, 9.5, 8.5]
    two["measures"]["distance"]["without"] = [4.0, 4.5, 3.5]
    assert behind(one, two, "distance") == {"value": 5.0, "error": 0.0}
    two["measures"]["distance"]["without"] = [4.0, 3.5, 4.5]
    assert behind(one, two, "distance")["error"] == pytest.approx((2 / 3 * 2) ** 0.5)
    assert behind(two, one, "distance")["value"] == -5.0
    better, worse = CELLS[1], CELLS[0]
    assert behind(worse, better, "class accuracy")["value"] == pytest.approx(0.4)


def test_errors_have_two_digits():
    found = {"value": 123.456, "error": 12.3}
    assert measures_in_words({"a": found}) == "a 123 ± 12"
    assert measures_in_words({"a": {**found, "error": 0.0123}}) == "a 123.456 ± 0.012"
    assert measures_in_words({"a": {"value": 1.0, "error": 0.0}}) == "a 1.0000 ± 0.0000"


def test_few_images_for_an_fid_are_told():
    cells = [{**CELLS[0], "measures": {"FID": {"value": 9.0, "error": 1.0, "without": [8.0, 9.0]}}}]
    assert "An FID of 40 images is larger than published ones" in to_markdown(record(*cells))
    assert "larger than published" not in to_markdown(record(*cells, count=50_000))
