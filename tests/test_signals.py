"""SIGTERM, SIGINT, SIGUSR1: the run is saved once, marked, and goes on exactly."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import CONFIGS, config, hashes, records, tokenizer_weights, train, words

from MaskGIL.command import Preempted
from Trainer.run_folder import MARKER
from Trainer.signals import STOPPING, Signals
from Trainer.vit import GeneratorTrainer

ROOT = CONFIGS.parent.parent
STEPS = 400
TRAIN = (f"loop.steps={STEPS}", "loop.save_every=150", "precision=fp32", "data.workers=2")
TRAIN += ("loop.validate_every=0", "loop.sample_every=0", "loop.tracker=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a tokenizer, a shared cache, and an uninterrupted run under `whole`."""
    folder = tokenizer_weights(tmp_path_factory.mktemp("signals"))
    code, _, err = ended(start(folder, "whole"))
    assert (code, err) == (0, "")
    return folder


def start(folder, run, *more, ranks=1, until="", **variables):
    """Start main.py on the run `run`; return it when a line of its log holds `until`."""
    changes = [*TRAIN, f"out_dir={folder / run}", f"data.cache={folder / 'cache'}", *more]
    command = [sys.executable, "main.py", *words("generator", folder), *changes]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        command[1:1] = [*launcher, "--master_addr=127.0.0.1", f"--master_port={port}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = folder / run / "log.txt"
    deadline = time.monotonic() + 240
    while until and not (log.exists() and until in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def ended(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def ranks_of(process):
    """Process numbers of the ranks that torchrun has started, in their order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()]


def goes_on_exactly(folder, run, *more, **how):
    code, _, err = ended(start(folder, run, *more, **how))
    assert code == 0, err
    assert not (folder / run / MARKER).exists()
    steps = [record["step"] for record in records(folder / run)]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_marks_and_ends_the_run(folder, name):
    process = start(folder, name, until="step  60/")
    os.kill(process.pid, getattr(signal, name))
    code, out, err = ended(process)
    assert code == 143, err
    last = out.splitlines()[-1]
    step = int(re.fullmatch(r"saved at step (\d+) of 400, \S+; the same command .*", last)[1])
    assert 60 < step < STEPS
    assert (folder / name / MARKER).read_text() == last + "\n"
    hint = f"kill -KILL {process.pid} would end it unsaved"
    assert err == f"{name}: the run is saved and ends when this step is done ({hint})\n"
    assert (folder / name / "checkpoints" / "latest").read_text() == f"step-{step:07d}"
    goes_on_exactly(folder, name)
    assert hashes(folder / name, STEPS) == hashes(folder / "whole", STEPS)
    assert records(folder / name) == records(folder / "whole")


@pytest.mark.slow
def test_signals_to_all_processes_one_after_the_other_are_one(folder):
    """As a terminal's Ctrl-C, and as a batch system: the data workers get them too."""
    process = start(folder, "many", until="step  60/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.killpg(process.pid, number)
        time.sleep(0.05)
    code, _, err = ended(process)
    assert (code, err.count("\n")) == (143, 1), err
    goes_on_exactly(folder, "many")
    assert hashes(folder / "many", STEPS) == hashes(folder / "whole", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 3.0])
def test_a_signal_before_the_first_step_leaves_nothing_that_is_in_the_way(folder, number, seconds):
    run = f"early {number} {seconds}"
    process = start(folder, run, "loop.steps=2")
    time.sleep(seconds)
    process.send_signal(number)
    code, _, err = ended(process)
    assert code in (-number, 143, 0), err  # 0: it was through
    assert "Traceback" not in err
    code, _, err = ended(start(folder, run, "loop.steps=2"))
    assert (code, err) == (0, "")


def test_a_trainer_that_gets_a_signal_saves_and_raises(tmp_path):
    """Here too, behind step 3, in which they come: its line of the log has waited for it."""
    tokenizer_weights(tmp_path)
    changes = ["loop.steps=9", "precision=fp32", "data.workers=2"]
    trainer = GeneratorTrainer(config("generator", tmp_path, *changes))
    loss_of = trainer.loss

    def loss(*arguments):
        if trainer.step == 2:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        return loss_of(*arguments)

    trainer.loss = loss
    before = [signal.getsignal(number) for number in STOPPING]
    try:
        with pytest.raises(Preempted, match=r"^saved at step 3 of 9, "):
            trainer.fit()
    finally:
        for number, handler in zip(STOPPING, before):
            signal.signal(number, handler)
    run = tmp_path / "generator"
    assert (run / MARKER).read_text().startswith("saved at step 3 of 9, ")
    assert not (run / "run.lock").exists()
    second = train("generator", tmp_path, *changes)
    assert (second.log.start, second.step) == (3, 9)
    assert not (run / MARKER).exists()
    train("generator", tmp_path, *changes, f"out_dir={tmp_path / 'whole'}")
    assert hashes(run, 9) == hashes(tmp_path / "whole", 9)
    assert records(run) == records(tmp_path / "whole")


def test_a_handler_takes_the_first_signal_and_gives_back_the_others():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with Signals() as signals:
        assert signals.received == ""
    assert all(signal.getsignal(number) == handler for number, handler in before.items())
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == "SIGUSR1"
    os.kill(os.getpid(), signal.SIGTERM)  # of no effect until the process has ended
    for number, handler in signals._before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "watched"), [(ProcessLookupError, {}), (PermissionError, {1: 7}), (None, {1: 7})]
)
def test_only_siblings_that_live_as_seen_from_here_are_watched(monkeypatch, error, watched):
    """In another container's numbers they would look dead from the beginning."""

    def kill(process, number):
        assert (process, number) == (7, 0)
        if error:
            raise error

    monkeypatch.setattr("Trainer.signals.world_size", lambda: 2)
    monkeypatch.setattr(
        "Trainer.signals.all_gather_texts", lambda mine: [mine, f"{socket.gethostname()} 7"]
    )
    monkeypatch.setattr(os, "kill", kill)
    with Signals() as signals:
        assert signals._siblings == watched


@pytest.mark.slow
def test_a_signal_while_the_first_step_is_compiled_saves_that_step(tmp_path):
    """With an empty cache of compiled code, so that compiling takes seconds."""
    run, inductor = tokenizer_weights(tmp_path) / "run", tmp_path / "inductor"
    compiling = ("data.workers=0", "loop.compile=true")
    process = start(tmp_path, "run", *compiling, TORCHINDUCTOR_CACHE_DIR=str(inductor))
    deadline = time.monotonic() + 240
    while not any(inductor.rglob("*.py")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert not (run / "metrics.jsonl").exists()  # no step is done
    code, _, err = ended(process)
    assert code == 143, err
    assert (run / MARKER).read_text().startswith(f"saved at step 1 of {STEPS}, ")
    assert (run / "checkpoints" / "latest").read_text() == "step-0000001"
    code, _, err = ended(start(tmp_path, "run", compiling[0], "loop.steps=2"))
    assert code == 0, err
    assert [record["step"] for record in records(run)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["torchrun", "rank 1"])
def test_all_ranks_stop_at_one_step(folder, whom):
    process = start(folder, whom, ranks=2, until="step  60/")
    target = process.pid if whom == "torchrun" else ranks_of(process)[1]
    begun = time.monotonic()
    os.kill(target, signal.SIGTERM)
    code, out, err = ended(process)
    assert code != 0
    assert time.monotonic() - begun < 10
    told = re.findall(r"^saved at step (\d+) of 400", out, flags=re.M)
    assert len(told) >= 1, err
    assert len(set(told)) == 1  # once in the log, once by the command
    assert "Connection closed" not in err
    assert (folder / whom / MARKER).exists()
    goes_on_exactly(folder, whom, ranks=2)


@pytest.mark.slow
def test_a_dead_rank_ends_the_job_with_its_name(folder):
    process = start(folder, "dead", "loop.save_every=50", ranks=2, until="step  60/")
    begun = time.monotonic()
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    code, _, err = ended(process)
    assert code != 0
    assert time.monotonic() - begun < 10
    assert re.search(r"rank\s*: 1 \(local_rank: 1\)\s*exitcode\s*: -9", err), err
    assert not (folder / "dead" / MARKER).exists()
    goes_on_exactly(folder, "dead", "loop.save_every=50", ranks=2)


BLOCKED = """
import os, threading
import torch
from MaskGIL.distributed import process_group, rank
from Trainer.signals import Signals

with process_group(torch.device("cpu")), Signals() as signals:
    os.write(1, f"ready {rank()}\\n".encode())  # at once: two ranks share a line of print
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # as in a collective whose other side is gone
"""


@pytest.mark.slow
def test_a_rank_that_is_blocked_for_ever_leaves_when_its_sibling_is_dead(tmp_path):
    (tmp_path / "blocked.py").write_text(BLOCKED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", str(tmp_path / "blocked.py")]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert {process.stdout.readline(), process.stdout.readline()} == {"ready 0\n", "ready 1\n"}
    begun = time.monotonic()
    dead = ranks_of(process)[1]
    os.kill(dead, signal.SIGKILL)
    code, _, err = ended(process)
    assert code != 0
    assert time.monotonic() - begun < 10
    assert f"error on rank 0: rank 1 (process {dead}) has died; the same command goes on" in err
