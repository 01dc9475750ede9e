"""Curves of two runs side by side, and the reference that belongs to a recipe."""

import json
import math

import pytest
from tiny_runs import CONFIGS

from MaskGIL.config import load_config, to_dict, to_yaml
from Network.config import UserError
from Trainer import curves
from Trainer.config import RunConfig
from Trainer.curves import SUFFIX, comparison, find_reference, read_curves, write_curves

RECIPE = CONFIGS / "demo" / "generator.yaml"


def run(folder, losses, *words, kind="train", environment=None):
    """A folder as a run of the demo's recipe leaves it: step i has losses[i]."""
    folder.mkdir(parents=True)
    lines = [{"step": step, "kind": kind, "loss": loss} for step, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(to_yaml(load_config(RunConfig, RECIPE, list(words))))
    (folder / "env.json").write_text(json.dumps(environment or {"torch": "2.15.0"}))
    return read_curves(folder)


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A folder of recipes with curves of the demo's, and of one that differs from it."""
    monkeypatch.setattr(curves, "CONFIGS", tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    write_curves(run(tmp_path / "a", [3, 2, 1]), tmp_path / "configs" / f"demo{SUFFIX}")
    other = run(tmp_path / "b", [3, 2, 1], "optim.lr=1", "masking.class_drop=0.5")
    write_curves(other, tmp_path / "configs" / f"other{SUFFIX}")


def verdict(table):
    return next(line for line in table.splitlines() if line.startswith("in all"))[12:]


@pytest.mark.usefixtures("recipes")
def test_the_reference_of_a_recipe_is_found_whatever_is_free_and_whatever_the_seed(tmp_path):
    mine = run(tmp_path / "mine", [3, 2], "seed=7", "out_dir=elsewhere", "loop.steps=9")
    assert find_reference(mine).source.name == f"demo{SUFFIX}"


@pytest.mark.usefixtures("recipes")
def test_another_recipe_is_told_what_the_nearest_has(tmp_path):
    mine = run(tmp_path / "mine", [3, 2], "optim.lr=5e-3")
    with pytest.raises(UserError) as error:
        find_reference(mine)
    assert str(error.value) == (
        f"No recipe with curves equals {mine.source}; the nearest, demo{SUFFIX}, has "
        f"optim.lr=0.004, not 0.005 (other keys that differ: 0). Name what to compare with: "
        f"compare={mine.source},OTHER."
    )


def test_equal_curves_are_said_to_be_equal(tmp_path):
    one, two = run(tmp_path / "one", [3, 2, 1, 0.5]), run(tmp_path / "two", [3, 2, 1])
    assert verdict(comparison(one, two)) == ("the training losses of all 3 common steps are equal")
    assert "differs" not in comparison(one, two)


def test_it_says_where_they_part_and_how_far(tmp_path):
    one, two = run(tmp_path / "one", [3, 2.2, 1.04, 1]), run(tmp_path / "two", [3, 2, 1, 1.0])
    assert verdict(comparison(one, two)) == (
        "the training losses part at step 1, are 10.00% apart at most (step 1) and 0.00% at the "
        "end (step 3)"
    )


def test_means_over_fewer_steps_are_not_compared(tmp_path):
    """A run that was resumed begins a mean anew."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, first in zip(folders, (10, 4)):
        run(folder, [])
        lines = [(10, first, 3.0 + first), (20, 10, 2.0)]
        records = [
            {"step": step, "kind": "train", "averaged_over": count, "loss": loss}
            for step, count, loss in lines
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    told = comparison(*map(read_curves, folders))
    assert verdict(told) == "the training losses of all 1 common steps are equal"


def test_what_is_not_finite_is_infinitely_far(tmp_path):
    one, two = run(tmp_path / "one", [3, math.nan]), run(tmp_path / "two", [3, 2])
    assert "are inf% apart at most (step 1)" in verdict(comparison(one, two))


def test_what_differs_is_told(tmp_path):
    one = run(tmp_path / "one", [1], "seed=3", "loop.steps=9", environment={"torch": "2.11.0"})
    table = comparison(one, run(tmp_path / "two", [1]))
    told = [line[12:] for line in table.splitlines() if line.startswith("differs")]
    assert told == ["seed: 3, there 0", "loop.steps: 9, there 4400", "torch: 2.11.0, there 2.15.0"]


def test_the_table_is_short_and_ends_with_the_last_common_step(tmp_path):
    losses = [1 / (1 + step) for step in range(100)]
    table = comparison(run(tmp_path / "one", losses), run(tmp_path / "two", losses[:90]))
    rows = [line.split() for line in table.splitlines() if " train " in line]
    assert 4 <= len(rows) <= curves.ROWS
    assert rows[-1] == ["89", "train", "loss", "0.01111", "0.01111", "0.00%"]


def test_validation_is_compared_too(tmp_path):
    one, two = (run(tmp_path / n, [2, 1], kind="validation") for n in ("one", "two"))
    rows = [line.split() for line in comparison(one, two).splitlines() if " validation " in line]
    assert [row[0] for row in rows] == ["0", "1"]


def test_runs_without_a_common_step_are_refused(tmp_path):
    with pytest.raises(UserError, match="have no logged step in common"):
        comparison(run(tmp_path / "one", [1]), run(tmp_path / "two", []))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"config": {}, "records": []}', "null"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_curves(tmp_path / "x.json")
    assert str(error.value) == (
        f"compare={tmp_path / 'x.json'} holds no curves: name a run folder or a {SUFFIX}."
    )


def test_curves_of_an_earlier_version_lack_keys_that_came_later(tmp_path):
    mine = run(tmp_path / "mine", [3, 2], "out_dir=")
    write_curves(mine, tmp_path / f"old{SUFFIX}")
    stored = json.loads((tmp_path / f"old{SUFFIX}").read_text())
    del stored["config"]["network"]["dropout"]  # as if it were new
    (tmp_path / f"old{SUFFIX}").write_text(json.dumps(stored))
    assert to_dict(read_curves(tmp_path / f"old{SUFFIX}").config) == to_dict(mine.config)


REFERENCES = sorted(CONFIGS.rglob(f"*{SUFFIX}"))


@pytest.mark.parametrize("file", REFERENCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_curves_beside_a_recipe_are_of_that_recipe(file):
    kept = read_curves(file)
    recipe = load_config(RunConfig, file.with_name(file.name.replace(SUFFIX, ".yaml")), [])
    assert curves.identity(kept.config) == curves.identity(recipe)
    assert kept.config.loop.steps == recipe.loop.steps == kept.records[-1]["step"]
    assert kept.environment["commit"]
