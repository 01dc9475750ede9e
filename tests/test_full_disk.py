"""A full disk is told, leaves nothing half written and nothing lost, and the run goes on."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_trainer import FP32
from tiny_runs import config, records, tokenizer_weights

from Trainer.checkpoint import damaged_file
from Trainer.logger import Logger
from Trainer.vit import GeneratorTrainer

WORDS = (FP32, "loop.steps=8", "loop.save_every=2", "loop.sample_every=4", "loop.keep=9")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"only root may mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave):
    """Leave so many bytes on the disk of a folder."""
    disk = os.statvfs(folder)
    (folder / "filling").write_bytes(b"." * max(0, disk.f_bavail * disk.f_frsize - leave))


def test_a_disk_of_four_megabytes_is_told_and_training_goes_on(small_disk, tmp_path, capsys):
    """It has room for the first checkpoint only; space is made before the last one."""
    tokenizer_weights(tmp_path)
    run = small_disk / "run"
    steps = []

    class Crowded(GeneratorTrainer):
        def train_step(self, *arguments):
            super().train_step(*arguments)
            steps.append(self.step)
            if self.step in (3, 7):
                self.checkpoints.wait()
                (small_disk / "filling").unlink(missing_ok=True)
            if self.step == 3:
                fill(small_disk, leave=50_000)

    words = [*WORDS, f"out_dir={run}", f"data.cache={tmp_path / 'cache'}"]
    trainer = Crowded(config("generator", tmp_path, *words))
    trainer.fit()
    assert steps == list(range(1, 9))
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"latest", "step-0000002", "step-0000008"}
    assert all(damaged_file(run / "checkpoints" / name) is None for name in names - {"latest"})
    assert not any(run.glob("*.tmp"))
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("warning: the disk of ")]
    assert [line.split(": ")[2].split(" ")[0] for line in told] == ["step-0000004", "step-0000006"]
    assert " are free. What was saved before is intact and training goes on" in told[0]
    assert records(run)[-1]["step"] == 8


def test_lines_that_have_no_room_are_lost_whole(small_disk, capsys):
    log = Logger(small_disk, 0, 10)
    log.record(1, "train", {"loss": 1.0})
    fill(small_disk, leave=0)
    whole = (small_disk / "metrics.jsonl").read_text()
    for step in range(2, 400):  # until the last page that the file has is full
        log.record(step, "train", {"loss": 0.123456789})
        log.line("a line of the log, of which only so many are left" * 20)
    (small_disk / "filling").unlink()
    log.record(400, "train", {"loss": 2.0})
    log.close()
    lines = (small_disk / "metrics.jsonl").read_text().splitlines()
    assert whole.splitlines() == lines[:1]
    found = [json.loads(line)["step"] for line in lines]
    assert found == [*range(1, len(found)), 400]
    assert len(found) < 399
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert told == [
        f"warning: the disk is full: lines of {name} are lost"
        for name in ("log.txt", "metrics.jsonl")
    ]
    Logger(small_disk, 1, 10).close()
    assert Path(small_disk / "metrics.jsonl").read_text() == whole
