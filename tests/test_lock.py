"""Two jobs in one folder: the second refuses. A job that has died holds nothing."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import config, tokenizer_weights, train, tree

from Network.config import UserError
from Trainer.generator_data import write_caches
from Trainer.lock import NAME, only_job

ROOT = Path(__file__).parent.parent
# Its child, as a data worker, outlives it and must not keep the lock
HOLDER = """
import os, sys, time
from pathlib import Path
from Trainer.lock import only_job

with only_job(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of FOLDER/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_job_is_refused_and_changes_nothing(holder, tmp_path):
    tokenizer_weights(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError) as error:
        train("generator", tmp_path, f"out_dir={tmp_path / 'run'}", "loop.steps=1")
    assert str(error.value) == (
        f"out_dir={tmp_path / 'run'} is in use by process {holder.pid} on {socket.gethostname()}; "
        "wait until it has ended, or name another out_dir."
    )
    assert tree(tmp_path) == before


def test_a_second_job_on_a_cache_is_refused(holder, tmp_path):
    tokenizer_weights(tmp_path)
    before = tree(tmp_path)
    asked = config("generator", tmp_path, "job=cache", f"data.cache={tmp_path / 'run'}")
    with pytest.raises(UserError) as error:
        write_caches(asked)
    assert str(error.value) == (
        f"data.cache={tmp_path / 'run'} is in use by process {holder.pid} on "
        f"{socket.gethostname()}; wait until it has ended, or name another data.cache."
    )
    assert tree(tmp_path) == before
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    write_caches(asked)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"train", "val"}


def test_a_complete_cache_is_for_many(tmp_path, monkeypatch):
    wanted = config("generator", tokenizer_weights(tmp_path), "job=cache")
    write_caches(wanted)
    monkeypatch.setattr("Trainer.tokens.only_job", None)
    write_caches(wanted)


def test_a_job_that_was_killed_holds_nothing_though_its_worker_lives(holder, tmp_path, capsys):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_job(tmp_path / "run"):
        text = (tmp_path / "run" / NAME).read_text()
        assert text == f"process {os.getpid()} on {socket.gethostname()}"
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run" / NAME).exists()


def test_a_lock_that_another_machine_left_is_told(tmp_path, capsys):
    (tmp_path / NAME).write_text("process 7 on elsewhere")
    with only_job(tmp_path):
        pass
    assert capsys.readouterr().out == (
        f"warning: {tmp_path / NAME} was left by process 7 on elsewhere: if that still runs, end "
        "this job, for the two would write over each other.\n"
    )


def test_a_file_system_without_locks_is_told(tmp_path, capsys, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("Trainer.lock.fcntl.lockf", unknown)
    with only_job(tmp_path):
        pass
    assert "cannot be locked ([Errno 38] Function not implemented)" in capsys.readouterr().out


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path):
    with pytest.raises(ZeroDivisionError), only_job(tmp_path / "new"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_leave_it_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with only_job(tmp_path / "new"):
        assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_behind_success_and_behind_a_mistake(tmp_path):
    tokenizer_weights(tmp_path)
    train("generator", tmp_path, "loop.steps=1")
    assert not (tmp_path / "generator" / NAME).exists()
    with pytest.raises(UserError):
        train("generator", tmp_path, "loop.steps=1", "seed=1")
    assert not (tmp_path / "generator" / NAME).exists()
