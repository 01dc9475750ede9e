"""The parts of a study as arrays of jobs: a shell reads the script, doubles try it."""

import os
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from Network.config import UserError
from Trainer import job_array
from Trainer.job_array import write_job_array


def part(stage, done=False, job="", cache="") -> Any:
    return SimpleNamespace(
        stage=SimpleNamespace(name=stage),
        job=job,
        cache=cache,
        arguments=["a.yaml", f"data.cache={cache}"],
        record=lambda: {} if done else None,
    )


PARTS = [part("tokenizer", done=True), part("tokenizer"), part("redraw", job="reconstruct"),
         part("train"), part("train", done=True), part("train")]  # fmt: skip


@pytest.fixture(autouse=True)
def caches(monkeypatch):
    monkeypatch.setattr(job_array, "missing_cache", lambda part: part.cache)


def submitted(tmp_path, parts):
    """What sbatch is told, a line each, by the script of these parts."""
    (tmp_path / "a b").mkdir()
    script = write_job_array(tmp_path / "a b", parts)
    double = tmp_path / "sbatch"
    double.write_text(f'#!/usr/bin/env bash\necho "$@" >> {tmp_path}/told\necho $((1000 + $#))\n')
    double.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["bash", script, "--time=1:00:00"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "told").read_text().splitlines()


def test_each_stage_waits_for_the_one_before(tmp_path):
    study = f"scripts/slurm.sh {tmp_path}/a b/config.yaml out_dir={tmp_path}/a b"
    assert submitted(tmp_path, PARTS) == [
        f"--parsable --time=1:00:00 --array=2 {study}",
        "--parsable --time=1:00:00 --nodes=1 --gpus-per-node=1 --dependency=afterok:1006 "
        f"--array=3 {study}",
        f"--parsable --time=1:00:00 --dependency=afterok:1009 --array=4,6 {study}",
        "--time=1:00:00 --nodes=1 --gpus-per-node=1 --dependency=afterok:1007 " + study,
    ]


def test_a_cache_that_parts_share_is_a_job_before_their_stage(tmp_path):
    parts = [part("tokenizer"), *[part("train", cache="a")] * 2, part("train", cache="b c")]
    told = submitted(tmp_path, parts)
    study = f"scripts/slurm.sh {tmp_path}/a b/config.yaml out_dir={tmp_path}/a b"
    assert told[1:4] == [
        "--parsable --time=1:00:00 --dependency=afterok:1006 scripts/slurm.sh a.yaml "
        "data.cache=a job=cache",
        "--parsable --time=1:00:00 --dependency=afterok:1007 scripts/slurm.sh a.yaml "
        "data.cache=b c job=cache",
        f"--parsable --time=1:00:00 --dependency=afterok:1007 --array=2,3,4 {study}",
    ]


def test_nothing_is_queued_where_all_is_done(tmp_path):
    with pytest.raises(UserError, match=r"^All parts in .* are finished; the command without"):
        write_job_array(tmp_path, PARTS[:1])
