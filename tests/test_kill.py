"""SIGKILL at 25 moments of a run, drawn from a printed seed: it ends bit-equal to one left alone.

The process that trains stops at every moment that could matter, tells which one it is, and waits to
be let on or killed, as in test_cache_kill.py. Half the moments lie within the writing of a file.
"""

import os
import random
import shutil
import signal
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save
from tiny_runs import config, hashes, records, tokenizer_weights, tree
from torch import multiprocessing

from MaskGIL import weights
from Trainer import checkpoint, keeping
from Trainer.vit import GeneratorTrainer

STEPS, KILLS, PIECES = 30, 25, 4
LONGEST = 80  # moments between two kills; a checkpoint and its weights have about 50
WORDS = (f"loop.steps={STEPS}", "loop.save_every=2", "precision=fp32", "loop.tracker=none")


class Moment(NamedTuple):
    """What the process does next; `step` is the one that it is in."""

    step: int
    what: str
    is_within_a_write: bool = False


class Asking(GeneratorTrainer):
    """Tells every moment, and asks whether it may go on."""

    def train_step(self, *arguments):
        self.ask("step")
        super().train_step(*arguments)

    def ask(self, what, is_within_a_write=False):
        self.connection.send(Moment(self.step, what, is_within_a_write))
        self.connection.recv()


def run_asking(connection, folder, run):
    """What the process does."""
    torch.set_num_threads(1)
    words = [*WORDS, f"out_dir={run}", f"data.cache={folder / 'cache'}"]
    asking = Asking(config("generator", folder, *words))
    asking.connection, ask = connection, asking.ask

    def save_slowly(tensors, path):
        data = save(dict(tensors))
        length = -(-len(data) // PIECES)
        with open(path, "wb") as file:
            for piece in range(PIECES):
                ask(f"{path.parent.name}/{path.name} {piece}", piece > 0)
                file.write(data[piece * length : (piece + 1) * length])
                file.flush()

    def telling(what, function):
        def told(*arguments, **options):
            ask(what)
            return function(*arguments, **options)

        return told

    at_once = keeping.save

    def save_and_wait(*arguments):  # so that moments come in one order
        at_once(*arguments)
        asking.checkpoints.wait()

    checkpoint.save_tensors = weights.save_tensors = save_slowly  # of this process alone
    checkpoint._sync = telling("sync", checkpoint._sync)
    os.replace = telling("replace", os.replace)
    weights.exchange = telling("exchange", weights.exchange)
    shutil.rmtree = telling("rmtree", shutil.rmtree)
    keeping.save = save_and_wait
    asking.fit()
    connection.send(None)


def run_until(folder, run, passed=None, within_a_write=False):
    """Let a process on; if asked, kill it at the first such moment behind so many others.

    Returns the moment at which it was killed, or None if it was through before.
    """
    context = multiprocessing.get_context("fork")  # to import torch would take seconds
    connection, far_end = context.Pipe()
    process = context.Process(target=run_asking, args=(far_end, folder, run), daemon=True)
    process.start()
    far_end.close()
    seen = 0
    while (moment := connection.recv()) is not None:
        if passed is not None and seen >= passed and moment.is_within_a_write == within_a_write:
            os.kill(process.pid, signal.SIGKILL)
            break
        seen += 1
        connection.send("go on")
    process.join(60)
    assert process.exitcode == (0 if moment is None else -signal.SIGKILL)
    return moment


@pytest.mark.slow
def test_a_run_killed_at_25_moments_ends_bit_equal(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    tokenizer_weights(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_until(tmp_path, whole)
    draw, moments = random.Random(seed), []
    while len(moments) < KILLS:
        moment = run_until(tmp_path, killed, draw.randrange(LONGEST), len(moments) % 2 == 0)
        if moment is not None:
            moments.append(moment)
            print(f"killed in step {moment.step}: {moment.what}")
    run_until(tmp_path, killed)
    within = sum(moment.is_within_a_write for moment in moments)
    print(f"survived {len(moments)} of {KILLS} kills, {within} of them within a write")
    assert within > KILLS / 2
    assert len({moment.step for moment in moments}) > 5
    assert hashes(killed, STEPS) == hashes(whole, STEPS)
    assert records(killed) == records(whole)
    ends = [list(tree(run / "weights").values()) for run in (whole, killed)]
    assert ends[0] == ends[1]
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
