"""The table of a study."""

from Trainer.study_table import shown_numbers, to_markdown


def about(mean, deviation=None):
    return {"mean": mean, "deviation": deviation, "number": 1}


def mean(arm, **numbers):
    found = {name.replace("__", ": ").replace("_", " "): value for name, value in numbers.items()}
    return {"arm": arm, "values": {"x": "1"}, "seeds": 2, "diverged": 0, "numbers": found}


def study(*means):
    cell = {"parts": {"train": "train/a", "sample": "sample/b"},
            "commands": {"train": "python main.py", "sample": "python FID_sample.py"}}  # fmt: skip
    return {
        "means": list(means),
        "cells": [cell, cell],
        "time": {
            "parts": 1200.0,
            "idle share": 0.012,
            "seconds": {"a": 0, "b": 0},
            "at equal sampling time": {},
        },
        "equal compute": 0.0,
        "command": "python main.py x.yaml",
        "environment": {"commit": "abc"},
    }


def test_a_row_has_means_and_deviations():
    first = mean("plain", train__bits_per_token=about(3.14159, 0.0271), train__lr=about(1.0))
    second = mean("", train__bits_per_token=about(None), sample__distance=about(1234.4))
    table = to_markdown(study(first, second))
    assert table.startswith("# Means over seeds ± their standard deviation\n\n|       | x |")
    rows = table.splitlines()
    assert [cell.strip() for cell in rows[2].strip("|").split("|")] == [
        "", "x", "seeds", "diverged", "train: bits per token", "sample: distance",
    ]  # fmt: skip
    assert rows[4].split("|")[5:7] == ["         3.142 ± 0.027 ", "                - "]
    assert rows[5].startswith("| all   |")
    assert rows[5].split("|")[5:7] == ["                     - ", "            1,234 "]
    assert len({len(row) for row in rows[2:6]}) == 1


def test_notes_tell_what_numbers_mean():
    table = to_markdown(study(mean("a", train__bits_per_token=about(3.0))))
    assert "* Bits per token are not comparable across codebooks" in table
    assert "Bits per image are exact" not in table
    assert "* 1,200 s in 2 parts, of an interrupted one that of its last attempt; 1.2% of " in table
    assert "1.2% of the whole was idle between them. Written by `python main.py x.yaml`" in table


def test_what_costs_the_same_is_told_apart():
    told = study(mean("a", train__loss=about(2.0)))
    told["equal compute"] = 12.345
    seconds = {"seconds per image": 0.0123, "distances": [about(7.0, 0.5)]}
    told["time"]["at equal sampling time"] = {"sweep": seconds}
    table = to_markdown(told)
    assert "| train: loss | sweep: distance within 0.012 s |" in table
    assert table.splitlines()[4].endswith(" 7 ± 0.5 |")
    assert "* Equal compute is 12.3 teraFLOPs of training, where the cheapest one ends." in table
    assert "* Distances within some seconds are the least of the settings swept" in table


def test_every_command_is_told_once():
    table = to_markdown(study(mean("a")))
    assert table.endswith("```\n# train/a\npython main.py\n# sample/b\npython FID_sample.py\n```\n")


def test_only_some_numbers_are_shown():
    means = study(mean("a", train__lr=about(1.0), train__loss=about(2.0)))
    assert shown_numbers(means) == ["train: loss"]
