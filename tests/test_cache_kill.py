"""SIGKILL while a token cache is written, at moments drawn from a printed seed: no byte differs.

The processes that write stop at every moment that could matter, tell which one it is, and wait to
be let on or killed. A slow stand-in for `write_durably` lets them stop within a write, which three
of the five do; the flush to disk of that function itself is not under test here. A moment is named
by the bytes at hand, so that it comes again after a restart.
"""

import os
import random
import re
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from test_cache import SIZE, Colours, MeanTokenizer, bad_files, contents
from torch import multiprocessing

from MaskGIL import cache, durable
from MaskGIL.cache import TokenCache, finish_cache, write_cache
from MaskGIL.durable import sha256

NUM_IMAGES = 8 * 256 + 100
BROKEN = (3, 700, 2100)
PIECES = 6  # in which the bytes of one write reach the disk


class Moment(NamedTuple):
    """What a process does next; if it writes, `done` bytes of `size` have left it."""

    what: str
    digest: str
    done: int = 0
    size: int = 0

    @property
    def is_within_a_write(self):
        return 0 < self.done < self.size

    def __str__(self):
        where = f", {self.done} of {self.size} bytes out" if self.is_within_a_write else ""
        return f"{self.what} {self.digest[:6]}{where}"


def write(connection, folder, rank, world_size):
    """What a process does, and asks before each piece of it."""

    def ask(*moment):
        connection.send(Moment(*moment))
        connection.recv()

    def write_slowly(file, data):
        name = re.search("tokens|chunks|labels|index", Path(file.name).name)[0]
        length = -(-len(data) // PIECES)
        for done in range(0, len(data), length):
            ask(f"writing {name}", sha256(data), done, len(data))
            file.write(data[done : done + length])
            file.flush()
        ask(f"wrote {name}", sha256(data))

    class Asking(MeanTokenizer):
        def encode(self, images):
            ask("encoding", sha256(images.numpy().tobytes()))
            return super().encode(images)

    torch.set_num_threads(1)
    cache.write_durably = durable.write_durably = write_slowly  # of this process alone
    images, bad = Colours(NUM_IMAGES, BROKEN), bad_files(folder.parent, range(NUM_IMAGES), 0.01)
    ranks = {"rank": rank, "world_size": world_size}
    write_cache(folder, images, Asking(), crops="flip", image_size=SIZE, bad=bad, **ranks)
    if rank == 0:
        ask("barrier", "")
        finish_cache(folder, images, bad)
    connection.send(None)


def run(folder, world_size, target=None):
    """Let the ranks on by turns, until rank 0 is at the moment `target`, then kill them all.

    Returns the moments of rank 0; the last one is `target` if they were killed.
    """
    context = multiprocessing.get_context("fork")  # each would take seconds to import torch
    connections, processes, moments = [], [], []
    for rank in range(world_size):
        connection, far_end = context.Pipe()
        arguments = (far_end, folder, rank, world_size)
        processes.append(context.Process(target=write, args=arguments, daemon=True))
        processes[-1].start()
        far_end.close()
        connections.append(connection)
    main, *others = connections
    while (moment := main.recv()) is not None:
        moments.append(moment)
        if moment == target:
            break
        others = [other for other in others if let_on(other)]
        while others and moment.what == "barrier":
            others = [other for other in others if let_on(other)]
        main.send("go on")
    for process in processes:
        if moment is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    # Rank 1 may have been through with its chunks
    assert processes[0].exitcode == (0 if moment is None else -signal.SIGKILL)
    assert {process.exitcode for process in processes} <= {0, processes[0].exitcode}
    return moments


def let_on(connection):
    """Whether the process had something left to do; it does it now."""
    if connection.recv() is None:
        return False
    connection.send("go on")
    return True


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_cache_killed_at_five_moments_is_the_same_to_the_byte(tmp_path, world_size):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "cache", tmp_path / "killed" / "cache"
    moments = run(whole, world_size)
    within = [moment for moment in moments if moment.is_within_a_write]
    between = [moment for moment in moments if not moment.is_within_a_write]
    draw = random.Random(seed)
    targets = sorted([*draw.sample(within, 3), *draw.sample(between, 2)], key=moments.index)
    for target in targets:
        print(f"killed {target}")
        assert run(killed, world_size, target)[-1] == target
        assert b'"complete": true' not in contents(killed).get("index.json", b"")
    run(killed, world_size)
    assert sorted(contents(whole)) == ["index.json", "labels.bin", "tokens-2x2.bin"]
    assert contents(killed) == contents(whole)
    labels = TokenCache.open(killed).labels
    assert [row for row in range(NUM_IMAGES) if labels[row] < 0] == list(BROKEN)
