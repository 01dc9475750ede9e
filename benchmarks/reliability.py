"""What breaks, and what that costs: python benchmarks/reliability.py, on a machine left alone.

Kills survived (tests/test_kill.py), seconds from SIGTERM to a run that is saved and has ended, from
the death of a rank to the end of the job, and how long a checkpoint holds up the loop. About ten
minutes on two cores. Writes benchmarks/results/reliability.json.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from paired import RESULTS, machine
from torch import nn

from MaskGIL.durable import replace_file, to_json
from Trainer.checkpoint import Checkpoints, take_snapshot
from Trainer.optim import EMA

ROOT = Path(__file__).parent.parent
REPEATS = 5
WORDS = ("loop.steps=100000", "loop.log_every=1", "loop.tracker=none", "device=cpu")
NUM_VALUES = 28_000_000  # a quarter of size B; a checkpoint holds four times as many


def main():
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(),
            "kills": kills(),
            "sigterm_seconds": [sigterm(Path(folder), number) for number in range(REPEATS)],
            "dead_rank_seconds": [dead_rank(Path(folder), number) for number in range(REPEATS)],
            "saving": [saving(Path(folder) / "checkpoints") for _ in range(REPEATS)],
        }
    replace_file(RESULTS / "reliability.json", to_json(results) + b"\n")
    print(to_json(results).decode())


def kills():
    """The seed, how many SIGKILLs a run has survived, and how many came within a write."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "slow", "tests/test_kill.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    out = done.stdout
    survived, total, within = re.search(r"survived (\d+) of (\d+) kills, (\d+)", out).groups()
    seed = re.search(r"seed (\d+)", out)[1]
    values = {"seed": seed, "survived": survived, "of": total, "within a write": within}
    return {name: int(value) for name, value in values.items()} | {
        "bit-equal": done.returncode == 0
    }


def sigterm(folder, number):
    """Seconds from SIGTERM until all is saved and the process has ended, in mid-training."""
    process = start(folder / f"term{number}", ranks=1)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert (folder / f"term{number}" / "PREEMPTED").exists()
    return time.monotonic() - begun


def dead_rank(folder, number):
    """Seconds from SIGKILL of one of two ranks until torchrun has ended."""
    process = start(folder / f"dead{number}", ranks=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    begun = time.monotonic()
    os.kill(int(children[1]), signal.SIGKILL)
    assert process.wait() != 0
    return time.monotonic() - begun


def start(run, ranks):
    """A tokenizer's demo run under way: its log has the line of step 5."""
    words = ["MaskGIL/configs/demo/tokenizer.yaml", f"out_dir={run}", *WORDS]
    command = [sys.executable, "main.py", *words]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        command[1:1] = [*launcher, "--master_addr=127.0.0.1", f"--master_port={port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, **quiet)
    log = run / "log.txt"
    while not (log.exists() and re.search(r"^step +5/", log.read_text(), re.M)):
        assert process.poll() is None
        time.sleep(0.05)
    return process


def saving(folder):
    """Seconds that a checkpoint holds up the loop, and that it takes in all.

    Beside it a loop of small multiplications, as the steps: its longest turn is what they feel.
    """
    module = nn.ParameterList(torch.randn(NUM_VALUES // 14, 1) for _ in range(14))
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for parameter in module:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average, checkpoints = EMA(module, 0.99), Checkpoints(folder, 2)
    begun = time.monotonic()
    checkpoints.save(1, take_snapshot(module, optimizer, average.tensors, {}, {"step": 1}))
    held_up, turns, matrix = time.monotonic() - begun, [], torch.randn(256, 256)
    while not checkpoints._pending.done():
        turn = time.monotonic()
        torch.mm(matrix, matrix)
        turns.append(time.monotonic() - turn)
    checkpoints.wait()
    return {
        "values": NUM_VALUES,
        "held up": held_up,
        "in all": time.monotonic() - begun,
        "longest turn beside": max(turns),
    }


if __name__ == "__main__":
    main()
