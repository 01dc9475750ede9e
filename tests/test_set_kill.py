"""SIGKILL while a set is made, at moments drawn from a printed seed: no byte and no score differs.

The process stops at every moment that could matter, tells which one it is, and waits to be let on
or killed, as in test_cache_kill.py. Half the moments lie within the writing of a file.
"""

import json
import os
import random
import re
import signal
from typing import NamedTuple

from tiny_weights import save_tiny_weights
from torch import multiprocessing, set_num_threads

import FID_sample
from MaskGIL import durable
from MaskGIL.command import run_command
from Metrics import job
from Metrics.sample_config import SampleConfig

WORDS = ("num_images=40", "chunk=6", "device=cpu", "precision=fp32", "reference=shapes:32")
KILLS = 4


class Moment(NamedTuple):
    """What the process does next."""

    what: str
    file: str = ""


def make_asking(connection, words):
    """What the process does, and asks before each piece of it."""

    def ask(what, file=""):
        connection.send(Moment(what, os.path.basename(file)))
        connection.recv()

    def write_slowly(file, data):
        file.write(data[: len(data) // 2])
        file.flush()
        ask("within", re.sub(r"\.[0-9a-f]{32}$", "", file.name).replace("/.", "/"))
        file.write(data[len(data) // 2 :])

    def sample_rows(pipe, labels, seed, rows, *words):
        if len(rows) > 1:  # behind the set an image alone is timed
            ask("sample", f"{rows.start:09d}.rgb")
        return sampled(pipe, labels, seed, rows, *words)

    def rename(source, target):
        ask("rename", target)
        renamed(source, target)

    set_num_threads(1)
    sampled, renamed = job.sample_rows, os.replace
    durable.write_durably, job.sample_rows = write_slowly, sample_rows  # of this process alone
    os.replace = rename
    code = run_command(FID_sample.main, SampleConfig, words, program="FID_sample.py", about="")
    connection.send(code)


def make(words, target=None):
    """Let the process on until it is at the moment `target`, then kill it.

    Returns its moments; the last one is `target` if it was killed.
    """
    context = multiprocessing.get_context("fork")  # to import torch would take seconds
    connection, far_end = context.Pipe()
    process = context.Process(target=make_asking, args=(far_end, words), daemon=True)
    process.start()
    far_end.close()
    moments = []
    while isinstance(moment := connection.recv(), Moment):
        moments.append(moment)
        if moment == target:
            os.kill(process.pid, signal.SIGKILL)
            break
        connection.send("go on")
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if target else 0)
    assert target or moment == 0
    return moments


def test_a_set_killed_at_four_moments_is_the_same_to_the_byte(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    weights = save_tiny_weights(tmp_path / "weights")
    words = [f"weights={weights}", *WORDS]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    moments = make([*words, f"out={tmp_path / 'whole/a.npz'}"])
    made = [moment for moment in moments if moment.file.endswith(".rgb")]
    within = [moment for moment in made if moment.what == "within"]
    assert (len(made), len(within)) == (21, 7)  # 40 images in chunks of 6
    draw = random.Random(seed)
    targets = [*draw.sample(within, 2), *draw.sample([m for m in made if m not in within], 2)]
    targets = [*sorted(targets, key=moments.index), Moment("rename", "a.npz")]
    killed, whole_chunks = [*words, f"out={tmp_path / 'killed/a.npz'}"], set()
    for target in targets:
        passed = make(killed, target)
        print(f"killed {' '.join(target)}")
        assert passed[-1] == target
        assert not (tmp_path / "killed/a.npz").exists()
        again = {moment.file for moment in passed} & whole_chunks
        assert not again, "a chunk that was there was made anew"
        whole_chunks = {path.name for path in (tmp_path / "killed/a.npz.partial").glob("*.rgb")}
    make(killed)
    assert len(whole_chunks) == 7
    one, two = (tmp_path / name for name in ("whole", "killed"))
    assert sorted(path.name for path in two.iterdir()) == ["a.json", "a.npz"]
    assert (one / "a.npz").read_bytes() == (two / "a.npz").read_bytes()
    records = [json.loads((folder / "a.json").read_text()) for folder in (one, two)]
    for record in records:
        for key in ("seconds", "images_per_second", "images", "seconds_alone", "peak_memory"):
            record["made"].pop(key)
        record["asked"].pop("out")
    assert records[0] == records[1]
