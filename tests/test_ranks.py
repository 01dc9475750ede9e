"""Two processes equal one: the same losses, the same samples, resumable by either."""

import functools
import json
import os
import socket
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import (
    CONFIGS,
    config,
    losses,
    records,
    run_ranks,
    text_weights,
    tokenizer_weights,
    train,
)

from MaskGIL.config import DataConfig, to_yaml
from MaskGIL.data import members, open_images
from MaskGIL.distributed import local_rank
from MaskGIL.weights import load_network, load_tokenizer

WORDS = ("precision=fp32", "loop.steps=20", "network.dropout=0")
REVIVAL = ("reconstruction.revive_every=4", "optim.batch=8", "loop.steps=12")
REVIVAL += ("loop.save_every=5", "loop.keep=9", "loop.validate_every=6")
# The batch norm of a discriminator sees a part: two ranks equal one that computes two parts
CONTEST = ("adversary.weight=0.5", "adversary.start=2", "adversary.adaptive=true", "loop.steps=5")
CONTEST += ("adversary.depth=2", "adversary.width=4", "optim.batch=8", "adversary.lecam=0.1")
SHARDED = ("loop.parallel=fsdp", "loop.checkpoint_blocks=0.5", "loop.steps=6")
STEPS = {"online": 6, "both": 6, "sharded": 6, "float32 in parts": 6, "tokenizer": 12, "contest": 5}
STEPS |= {"text": 6}


def variants(folder):
    """Every run by name: its job and what is special. Caches are shared, one precision each."""
    cache, captioned = (f"data.cache={folder / name}" for name in ("cache", "captioned"))
    return {
        "float32": ("generator", cache),
        "float32 in parts": ("generator", cache, "loop.accumulation=2", "loop.steps=6"),
        "float64": ("double", cache),
        "both": ("double", cache, "objective=both", "network.low_bits=2", "loop.steps=6"),
        "sharded": ("generator", cache, *SHARDED),
        "online": ("generator", "data.tokens=online", "loop.steps=6"),
        "text": ("text", captioned, "loop.steps=6", "loop.validate_every=3"),
        "tokenizer": ("tokenizer", *REVIVAL),
        "contest": ("tokenizer", *CONTEST),
        "handed over": ("tokenizer", *REVIVAL),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs of `variants`, under one/NAME by one process, two/NAME by two.

    `handed over` is begun by two, stopped in step 8 and finished by one.
    """
    folder = text_weights(tmp_path_factory.mktemp("ranks"))
    calls = []
    for name, (job, *words) in variants(folder).items():
        words = [*WORDS, *words]
        out = [f"out_dir={folder / number / name}" for number in ("one", "two")]
        stop = 7 if name == "handed over" else None
        calls.append(functools.partial(train, job, folder, *words, out[1], stop=stop))
        if stop is None:
            parts = ("loop.accumulation=2",) if name == "contest" else ()
            train(job, folder, *words, *parts, out[0])
    run_ranks(2, calls)
    train("tokenizer", folder, *WORDS, *REVIVAL, f"out_dir={folder / 'two' / 'handed over'}")
    return folder


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("float32", 1e-4),
        ("float64", 1e-9),
        ("sharded", 1e-5),
        ("float32 in parts", 1e-4),
        ("both", 1e-9),
        ("online", 1e-4),
        ("text", 1e-4),
        ("tokenizer", 1e-4),
        ("contest", 1e-3),
    ],
)
def test_two_ranks_lose_what_one_loses(runs, name, tolerance):
    one, two = losses(runs / "one" / name), losses(runs / "two" / name)
    assert len(one) == STEPS.get(name, 20)
    torch.testing.assert_close(two, one, atol=tolerance, rtol=0)
    assert (one[0] - one[-1]).abs() > 100 * tolerance  # they moved far more than that


def test_the_other_numbers_agree_too(runs):
    for name in ("float32", "text", "tokenizer"):
        pairs = zip(records(runs / "one" / name), records(runs / "two" / name), strict=True)
        for one, two in pairs:
            assert one.pop("kind") == two.pop("kind")
            # Rounding decides between tokens that a young network finds equally likely
            assert two.pop("acc", 0) == pytest.approx(one.pop("acc", 0), abs=0.04)
            assert two == pytest.approx(one, rel=1e-2, abs=1e-3)


def test_two_ranks_validate_as_one(runs):
    for name, times in (("text", 2), ("tokenizer", 2)):
        one, two = (records(runs / number / name, "validation") for number in ("one", "two"))
        assert len(one) == times
        for alone, together in zip(one, two, strict=True):
            assert alone.pop("kind") == together.pop("kind")
            assert together == pytest.approx(alone, rel=1e-3)


def test_their_weights_agree_and_have_plain_names(runs):
    for name in ("float32", "float64"):
        one, two = (
            load_file(runs / n / name / "weights/network.safetensors") for n in ("one", "two")
        )
        assert one.keys() == two.keys()
        assert not any(part in key for key in two for part in ("module.", "_orig_mod"))
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=1e-3, rtol=0)
    load_network(runs / "two" / "float32" / "weights")
    load_tokenizer(runs / "two" / "tokenizer" / "weights")


def test_one_rank_writes_the_log(runs):
    lines = (runs / "two" / "float32" / "log.txt").read_text().splitlines()
    assert sum(line.startswith("step ") for line in lines) == 20
    assert [record["step"] for record in records(runs / "two" / "float32")] == list(range(1, 21))
    environment = json.loads((runs / "two" / "float32" / "env.json").read_text())
    assert environment["ranks"] == 2


def test_what_two_ranks_began_one_rank_finishes(runs):
    """Also the counts of the codes, which are spread over the ranks when a run is stopped."""
    found = losses(runs / "two" / "handed over")
    torch.testing.assert_close(found, losses(runs / "one" / "tokenizer"), atol=1e-4, rtol=0)
    extra = "checkpoints/step-0000005/extra.safetensors"
    counts = load_file(runs / "two" / "handed over" / extra)["histograms"]
    assert counts.sum(1).tolist() == [3 * 8 * 16, 8 * 16]  # steps 2 to 4, and 5


def open_slowly(folder):
    """Open the tar file of `folder` as a rank that writes down whether it reads the headers."""
    read = members._read_samples

    def slowly(tar):
        (folder / f"read by {local_rank()}").touch()
        time.sleep(0.5)  # long enough for the other to begin too
        return read(tar)

    members._read_samples = slowly
    assert len(open_images(DataConfig(source="folder", path=str(folder)), "train")) == 1


@pytest.mark.slow
def test_one_rank_reads_the_headers_of_tar_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))  # the ranks inherit it
    (tmp_path / "a.jpg").touch()
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(tmp_path / "a.jpg", "cat/a.jpg")
    run_ranks(2, [functools.partial(open_slowly, tmp_path)])
    assert [file.name for file in tmp_path.glob("read by *")] == ["read by 0"]


def torchrun(tmp_path, *words, script="main.py"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", script, *words]
    return subprocess.run(
        command,
        cwd=CONFIGS.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    """`torchrun main.py CONFIG`, and the same command again."""
    tokenizer_weights(tmp_path)
    file = tmp_path / "run.yaml"
    for steps in (2, 4):
        words = [*WORDS, f"loop.steps={steps}", "loop.validate_every=2", "loop.sample_every=2"]
        file.write_text(to_yaml(config("generator", tmp_path, *words)))
        done = torchrun(tmp_path, str(file))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"done: {steps} steps") == 1
    assert [record["step"] for record in records(tmp_path / "generator")] == [1, 2, 3, 4]


LONE = """
import sys
import torch
from MaskGIL.command import run_command
from MaskGIL.config import DataConfig
from MaskGIL.distributed import all_reduce, process_group, rank
from Network.config import UserError

def job(config, flags):
    with process_group(torch.device("cpu")):
        all_reduce(torch.zeros(1))
        if rank() == config.workers:
            raise UserError("The moon is missing.")
        all_reduce(torch.zeros(1))

sys.exit(run_command(job, DataConfig, sys.argv[1:], program="lone", about=""))
"""


@pytest.mark.slow
@pytest.mark.parametrize("lone", [0, 1])
def test_a_mistake_of_one_rank_is_told_and_nothing_else(tmp_path, lone):
    (tmp_path / "lone.py").write_text(LONE)
    done = torchrun(tmp_path, f"workers={lone}", script=str(tmp_path / "lone.py"))
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "error" in line and "moon" in line]
    assert told == ["error" + " on rank 1" * lone + ": The moon is missing."]
    assert "Connection closed" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_two_ranks_that_fit_themselves_into_memory_score_as_one(tmp_path, job):
    tokenizer_weights(tmp_path)
    words = ["precision=fp32", "loop.steps=4", "loop.score_every=2", "loop.score_images=40"]
    words += ["loop.accumulation=0", "network.dropout=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    train(job, tmp_path, *words, f"out_dir={one}")
    run_ranks(2, [functools.partial(train, job, tmp_path, *words, f"out_dir={two}")])
    alone, together = (
        [(score["step"], score["images"], score["distance"]) for score in records(run, "score")]
        for run in (one, two)
    )
    assert [score[:2] for score in alone] == [(2, 40), (4, 40)]
    assert np.array(together) == pytest.approx(np.array(alone), rel=1e-4)
    assert "memory     8 images at once, 1 part a step" in (two / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("job", "tolerance"), [("double", 1e-9), ("generator", 1e-4)])
def test_ranks_times_parts_is_what_counts(tmp_path, job, tolerance):
    """One rank with four parts, two with two, four with one: the same losses."""
    tokenizer_weights(tmp_path)
    words = [*WORDS, "loop.steps=8", f"data.cache={tmp_path / 'cache'}"]
    found = []
    for ranks, parts in ((1, 4), (2, 2), (4, 1)):
        out = tmp_path / f"{ranks}"
        more = [f"loop.accumulation={parts}", f"out_dir={out}"]
        call = functools.partial(train, job, tmp_path, *words, *more)
        call() if ranks == 1 else run_ranks(ranks, [call])
        found.append(losses(out))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=tolerance, rtol=0)
    assert found[0][0] - found[0][-1] > 100 * tolerance


@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path):
    words = ["MaskGIL/configs/demo/generator.yaml", f"out_dir={tmp_path}", "optim.batch=7"]
    done = torchrun(tmp_path, *words, f"tokenizer.weights={tmp_path / 'none'}")
    assert done.returncode != 0
    told = (
        "error: optim.batch=7 is not divisible by 2, the number of ranks (2) times "
        "loop.accumulation (1); nearest: 6, 8."
    )
    assert done.stderr.count(told) == 1
    assert list(tmp_path.iterdir()) == []
