"""Studies that are killed go on, and processes make the same cells as one."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from tiny_runs import CONFIGS, tokenizer_weights, words
from tiny_studies import ARMS, read, staged_file, tiny_study

from MaskGIL.config import load_config
from Trainer.config import RunConfig
from Trainer.study import run_study


@pytest.fixture
def folder(tmp_path):
    return tokenizer_weights(tmp_path)


MOMENTS = [  # what is there, and is not complete, when the study is killed
    ("tokenizer/*/checkpoints/step-0000002/manifest.json", 1),
    ("*/*/part.json", 4),
    ("sample/*/samples.npz.partial/*", 1),
]


@pytest.mark.slow
def test_a_study_killed_at_three_moments_ends_as_one_left_alone(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
        file = staged_file(place)
        file.write_text(file.read_text().replace(f"{place}/", ""))
    for pattern, count in MOMENTS:
        job = started(killed)
        until(partial(are_there, killed / "grid", pattern, count), seconds=600, pause=0.002)
        job.kill()
        job.join()
        assert job.exitcode == -signal.SIGKILL
        assert not (killed / "grid" / "study.json").exists()
    for place in (whole, killed):
        job = started(place)
        job.join()
        assert job.exitcode == 0
    assert timeless(read(killed)) == timeless(read(whole))
    assert read(killed)["cells"]


def are_there(folder, pattern, count):
    return len(list(folder.glob(pattern))) >= count


def started(place):
    """A process that runs the study there; to import PyTorch would take seconds."""
    job = torch.multiprocessing.get_context("fork").Process(target=run_in, args=(place,))
    job.start()
    return job


def run_in(place):
    torch.set_num_threads(1)
    os.chdir(place)
    run_study(load_config(RunConfig, "study.yaml", []))


def timeless(record):
    """A record without what a clock has told."""
    if isinstance(record, list):
        return [timeless(item) for item in record]
    if isinstance(record, dict):
        clocked = ("time", "clock")
        return {key: timeless(value) for key, value in record.items() if key not in clocked}
    return record


@pytest.mark.slow  # a process of its own imports PyTorch again
def test_processes_make_the_same_cells(folder, capsys):
    run_study(tiny_study(folder, ARMS))
    alone = read(folder)
    run_study(tiny_study(folder, ARMS, f"out_dir={folder / 'many'}", "study.workers=2"))
    many = json.loads((folder / "many" / "study.json").read_text())
    for one, other in zip(alone["cells"], many["cells"], strict=True):
        assert (one["name"], one["curves"]) == (other["name"], other["curves"])
    assert "img/s" not in capsys.readouterr().out.partition("wrote ")[2]


LONG = ("job=study", "study.workers=2", "loop.steps=100000", "loop.save_every=100000")


def long_study(folder, *changes):
    """A process of its own with a group of its own; its parts do not end by themselves."""
    places = [f"out_dir={folder / 'grid'}", f"data.cache={folder / 'cache'}"]
    command = [sys.executable, "main.py", *words("generator", folder), *LONG, *places, *changes]
    where = CONFIGS.parent.parent
    return subprocess.Popen(command, cwd=where, start_new_session=True, stderr=subprocess.PIPE)


def training(folder):
    return len(list(folder.glob("grid/train/*/metrics.jsonl")))


def saved(folder):
    return len(list(folder.glob("grid/train/*/checkpoints/step-*/manifest.json")))


@pytest.mark.slow
def test_cells_save_and_end_when_their_study_is_killed(folder):
    job = long_study(folder, "study.seeds=0,1")
    until(lambda: training(folder) == 2)
    job.kill()
    job.wait()
    until(lambda: is_gone(job.pid))  # the group, which is named after its first process
    assert saved(folder) == 2


@pytest.mark.slow
@pytest.mark.parametrize("tell", [os.kill, os.killpg])  # as `kill -INT` does, and a terminal
def test_a_study_that_is_interrupted_ends_and_begins_nothing_more(folder, tell):
    job = long_study(folder, "study.seeds=0,1,2")
    until(lambda: training(folder) == 2)
    tell(job.pid, signal.SIGINT)
    told = job.communicate(timeout=120)[1].decode()
    assert (job.returncode, told.count("Traceback")) == (130, 0), told
    assert saved(folder) == training(folder) == 2


@pytest.mark.slow
def test_a_part_that_fails_ends_its_study(folder):
    other = tokenizer_weights(folder / "other", seed=1) / "weights"  # whose is not the cache
    arms = f"study.arms=long loop.log_every=2,wrong tokenizer.weights={other},more seed=5"
    job = long_study(folder, arms)
    told = job.communicate(timeout=120)[1].decode()
    assert job.returncode == 2, told
    assert "another tokenizer" in told
    assert saved(folder) == training(folder) <= 1


def until(is_so, seconds=120, pause=0.2):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(pause)


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
