"""Grids of runs: which cells there are, what they record, and what is not done twice."""

import json
import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from tiny_runs import CONFIGS, config, tokenizer_weights, tree, words

from MaskGIL.command import Failure
from MaskGIL.config import identity, load_config
from Network import build_network
from Network.config import UserError
from Trainer import study
from Trainer.config import RunConfig
from Trainer.dry_run import dry_run
from Trainer.guard import Diverged
from Trainer.study import POINTS, cells_of, diverged, gathered, read_curves, run_study

STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
ARMS = "study.arms=plain network.norm=pre,post + QK network.norm=post network.qk_norm=true"
AXIS = "study.axes=optim.lr=1e-3 1e30"


@pytest.fixture
def folder(tmp_path):
    return tokenizer_weights(tmp_path)


def tiny_study(folder, *changes):
    """A study of the tiny generator; its cells share a cache."""
    words = [f"out_dir={folder / 'grid'}", f"data.cache={folder / 'cache'}", "loop.steps=3"]
    words += ["loop.tracker=none", "optim.warmup=0", "optim.clip=0"]
    return config("generator", folder, "job=study", *words, *changes)


def names(run):
    return [cell.name for cell in cells_of(run)]


# Which cells there are


def test_every_arm_meets_every_value_and_every_seed(folder):
    run = tiny_study(folder, ARMS, "study.axes=optim.lr=1 2,optim.beta2=0.9", "study.seeds=0,7")
    cells = list(cells_of(run))
    assert len(cells) == len(set(names(run))) == 2 * 2 * 1 * 2
    assert names(run)[:3] == [
        "plain_optim.lr=1_optim.beta2=0.9_seed=0",
        "plain_optim.lr=1_optim.beta2=0.9_seed=7",
        "plain_optim.lr=2_optim.beta2=0.9_seed=0",
    ]
    last = cells[-1]
    assert (last.arm, last.seed) == ("post + QK", 7)
    assert last.values == {"optim.lr": "2", "optim.beta2": "0.9"}
    found = last.config
    assert (found.job, found.seed, found.optim.lr, found.optim.beta2) == ("generator", 7, 2.0, 0.9)
    assert (found.network.norm, found.network.qk_norm) == ("post", True)
    assert cells[0].config.network.norm == "pre"
    assert found.out_dir == str(folder / "grid" / "post-+-QK_optim.lr=2_optim.beta2=0.9_seed=7")


def test_a_cell_takes_over_every_other_key_of_the_study(folder):
    run = tiny_study(folder, "study.seeds=5", "tokenizer.attention_levels=", "loop.log_every=2")
    (cell,) = cells_of(run)
    own = {"job": "generator", "seed": 5}
    assert identity(cell.config) == identity(run) | own
    assert cell.config.loop == run.loop
    assert cell.config.data == run.data
    assert cell.config.study == type(run.study)()


def test_a_size_can_be_an_axis(folder):
    base = "network.size=B"  # which fills in depth, width and heads
    sizes = cells_of(tiny_study(folder, *TINY_SIZES, base, "study.axes=network.size=L XL"))
    assert [cell.config.network.depth for cell in sizes] == [24, 36]  # Network.sizes.SIZES


TINY_SIZES = ("network.depth=0", "network.width=0", "network.heads=0")


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_cells_of_a_published_study_can_be_built(file):
    for cell in cells_of(load_config(RunConfig, file, [])):
        with torch.device("meta"):
            build_network(cell.config.network)
        assert cell.config.loop.save_every <= cell.config.loop.steps


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["study.arms=network.norm=pre"],
            "study.arms has a row 'network.norm=pre'; write NAME KEY=VALUE KEY=VALUE.",
        ),
        (
            ["study.arms=pre network.norm=pre norm"],
            "study.arms has a row 'pre network.norm=pre norm'; write NAME KEY=VALUE KEY=VALUE.",
        ),
        (
            ["study.axes=optim.lr"],
            "study.axes has a row 'optim.lr'; write KEY=VALUE VALUE VALUE.",
        ),
        (
            ["study.axes=optim.lr="],
            "study.axes has a row 'optim.lr='; write KEY=VALUE VALUE VALUE.",
        ),
        (
            ["study.axes=optim.lr=1 1"],
            "study.arms and study.axes make two cells optim.lr=1_seed=0; name them apart.",
        ),
        (
            ["study.axes=optim.rl=1"],
            "The cell optim.rl=1_seed=0 of the study: Unknown key 'optim.rl' on the command line. "
            "Did you mean 'optim.lr'?",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_one_sentence(folder, changes, sentence):
    before = tree(folder)
    with pytest.raises(UserError) as error:
        run_study(tiny_study(folder, *changes))
    assert str(error.value) == sentence
    assert tree(folder) == before


# What they record


def test_a_study_is_run_recorded_and_drawn(folder, capsys):
    run_study(tiny_study(folder, ARMS, AXIS, "precision=fp32", "loop.validate_every=3"))
    found = json.loads((folder / "grid" / "study.json").read_text())
    assert [cell["name"] for cell in found["cells"]] == names(tiny_study(folder, ARMS, AXIS))
    assert {"torch", "commit", "threads"} <= found["environment"].keys()
    assert found["largest_stable"] == {"plain": "1e-3", "post + QK": "1e-3"}
    for cell in found["cells"]:
        train = cell["curves"]["train"]
        assert train["step"] == [1, 2, 3]
        assert len(cell["curves"]["validation"]["loss"]) == 1
        wild = cell["values"]["optim.lr"] == "1e30"  # beyond what float32 can take
        assert bool(cell["diverged"]) == wild
        assert not wild or train["loss"][-1] is None or train["loss"][-1] > train["loss"][0]
    assert (folder / "grid" / "study.png").stat().st_size > 5000
    assert (folder / "cache" / "train" / "index.json").exists()
    assert "\ncell 4/4 post-+-QK_optim.lr=1e30_seed=0: " in capsys.readouterr().out


def test_cells_that_have_ended_are_not_run_again(folder, monkeypatch):
    run = tiny_study(folder, ARMS)
    run_study(run)
    before, record = tree(folder / "grid"), json.loads((folder / "grid" / "study.json").read_text())
    for name in ("study.json", "study.png", "config.yaml"):
        del before[folder / "grid" / name]
    monkeypatch.setattr(study, "TRAINERS", {})
    run_study(tiny_study(folder, ARMS, "loop.log_every=2"))  # a free key
    after = tree(folder / "grid")
    assert {path: after[path] for path in before} == before
    assert json.loads((folder / "grid" / "study.json").read_text())["cells"] == record["cells"]
    with pytest.raises(KeyError):  # more of them are
        run_study(tiny_study(folder, ARMS, "study.seeds=0,1"))
    with pytest.raises(KeyError):
        run_study(tiny_study(folder, ARMS, "loop.steps=4"))


def test_a_cell_that_was_stopped_goes_on(folder, monkeypatch):
    run = tiny_study(folder, "loop.save_every=1")
    (cell,) = cells_of(run)

    def stopped(self, *arguments):
        if self.step == 2:
            self.checkpoints.wait()
            raise KeyboardInterrupt
        step(self, *arguments)

    step = study.GeneratorTrainer.train_step
    monkeypatch.setattr(study.GeneratorTrainer, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(run)
    assert not (folder / "grid" / cell.name / "cell.json").exists()
    monkeypatch.undo()
    run_study(run)
    log = (folder / "grid" / cell.name / "log.txt").read_text()
    assert "step 2 of 3" in log
    (found,) = json.loads((folder / "grid" / "study.json").read_text())["cells"]
    assert found["curves"]["train"]["step"] == [1, 2, 3]


@pytest.fixture
def end(monkeypatch):
    """Lets every run end at a step with an exception."""

    def end(last, exception):
        def ends(self, *arguments):
            if self.step == last:
                raise exception
            step(self, *arguments)

        step = study.GeneratorTrainer.train_step
        monkeypatch.setattr(study.GeneratorTrainer, "train_step", ends)

    return end


@pytest.mark.parametrize("last", [0, 1, 2])  # the first line of the log is that of step 2
def test_a_run_that_diverges_is_recorded(folder, end, last, capsys):
    end(last, Diverged("Enough is enough."))
    run_study(tiny_study(folder, "loop.log_every=2"))
    (found,) = json.loads((folder / "grid" / "study.json").read_text())["cells"]
    assert (found["diverged"], found["steps"]) == ("Enough is enough.", last)
    assert found["curves"]["train"]["step"] == [2] * (last == 2)
    assert "diverged: Enough is enough., " in capsys.readouterr().out
    assert (folder / "grid" / "study.png").is_file()


def test_a_run_that_something_else_ends_is_not(folder, end, monkeypatch):
    end(2, Failure("The disk is full."))
    with pytest.raises(Failure, match="The disk is full"):
        run_study(tiny_study(folder))
    monkeypatch.undo()
    run_study(tiny_study(folder))
    (found,) = json.loads((folder / "grid" / "study.json").read_text())["cells"]
    assert (found["diverged"], found["steps"]) == ("", 3)


def test_a_dry_run_tells_of_one_cell_and_writes_nothing(folder, capsys):
    before = tree(folder)
    dry_run(tiny_study(folder, ARMS))
    told = capsys.readouterr().out
    assert re.match(r"study +2 runs, of which the first is plain_seed=0:\nparameters ", told)
    assert tree(folder) == before


def test_a_mistake_ends_a_study(folder):
    with pytest.raises(UserError, match="network.num_classes is 5"):
        run_study(tiny_study(folder, "network.num_classes=5"))


@pytest.mark.slow  # a process of its own imports PyTorch again
def test_processes_make_the_same_cells(folder, capsys):
    run_study(tiny_study(folder, ARMS))
    alone = json.loads((folder / "grid" / "study.json").read_text())
    run_study(tiny_study(folder, ARMS, f"out_dir={folder / 'many'}", "study.workers=2"))
    many = json.loads((folder / "many" / "study.json").read_text())
    for one, other in zip(alone["cells"], many["cells"], strict=True):
        assert (one["name"], one["curves"]) == (other["name"], other["curves"])
    assert "img/s" not in capsys.readouterr().out.partition("wrote ")[2]


@pytest.mark.slow
def test_cells_save_and_end_when_their_study_is_killed(folder):
    changes = [f"out_dir={folder / 'grid'}", "job=study", "study.seeds=0,1", "study.workers=2"]
    changes += ["loop.steps=100000", "loop.save_every=100000", f"data.cache={folder / 'cache'}"]
    command = [sys.executable, "main.py", *words("generator", folder), *changes]
    job = subprocess.Popen(command, cwd=CONFIGS.parent.parent, start_new_session=True)
    runs = [folder / "grid" / f"seed={seed}" for seed in (0, 1)]
    until(lambda: all((run / "metrics.jsonl").exists() for run in runs))
    job.kill()
    job.wait()
    until(lambda: is_gone(job.pid))  # the group, which is named after its first process
    assert all(list((run / "checkpoints").glob("step-*/manifest.json")) for run in runs)


def until(is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_torchrun_and_processes_do_not_mix(folder, monkeypatch):
    monkeypatch.setattr(study, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"study\.workers=2 starts processes of its own; leave "):
        run_study(tiny_study(folder, "study.workers=2"))


# Verdicts and curves


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
    ],
)
def test_what_has_diverged(losses, skipped, reason):
    curve = {"step": list(range(len(losses))), "loss": losses}
    assert diverged(curve | {"skip": [0] * (len(losses) - 1) + [skipped]}, 1.2) == reason
    if not skipped:  # records of earlier versions do not count them
        assert diverged(curve, 1.2) == reason


def test_numbers_that_are_not_finite_become_none(tmp_path):
    rows = [
        {"step": 1, "kind": "train", "loss": 1 / 3, "gnorm": 2.0, "lr": 1.0},
        {"step": 2, "kind": "train", "loss": math.nan, "gnorm": math.inf, "lr": 1.0},
        {"step": 2, "kind": "validation", "loss": 1.0, "acc": 0.5},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_curves(file) == {
        "train": {"step": [1, 2], "loss": [0.33333, None], "gnorm": [2.0, None]},
        "validation": {"step": [2], "loss": [1.0], "acc": [0.5]},
    }


def test_long_curves_are_thinned_and_keep_their_ends(folder):
    steps = list(range(1, 501))
    curves = {"train": {"step": steps, "loss": [1 / step for step in steps]}}
    record = {"arm": "", "values": {}, "recipe": "x", "diverged": "", "curves": curves}
    (cell,) = gathered(tiny_study(folder), [record])["cells"]
    train = cell["curves"]["train"]
    assert (len(train["step"]), train["step"][0], train["step"][-1]) == (POINTS, 1, 500)
    assert train["loss"] == [1 / step for step in train["step"]]
    assert "recipe" not in cell
