"""Checkpoints and weights of a run; that it resumes exactly is in test_resume.py."""

import os
import threading
import time

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import FP32
from tiny_runs import TRAINERS, config, tokenizer_weights, train, tree

from MaskGIL.command import Failure
from Network.config import UserError
from Trainer import keeping
from Trainer.keeping import save

WORDS = (FP32, "loop.steps=8", "loop.save_every=2", "loop.keep=9")


def test_a_run_that_cannot_save_its_last_step_fails(tmp_path, monkeypatch):
    tokenizer_weights(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    train("generator", tmp_path, *WORDS[:2])
    monkeypatch.setattr("Trainer.checkpoint.save_tensors", full)
    with pytest.raises(Failure) as error:
        train("generator", tmp_path, *WORDS, "loop.steps=9")
    assert str(error.value) == (
        f"Step 9 could not be saved, as the disk of {tmp_path / 'generator'} is full; make room "
        "and start the same command again, which goes on from the checkpoint before."
    )
    monkeypatch.undo()
    assert train("generator", tmp_path, *WORDS, "loop.steps=9").log.start == 8


def test_others_may_read_all_that_a_run_writes(tmp_path):
    tokenizer_weights(tmp_path)
    before = os.umask(0o027)
    try:
        train("generator", tmp_path, *WORDS[:2])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tree(tmp_path / "generator")}
    assert {"model.safetensors", "network-ema.safetensors"} <= modes.keys()
    assert set(modes.values()) == {0o640}


def test_weights_are_those_of_the_checkpoint_though_steps_went_on(tmp_path, monkeypatch):
    """The thread writes when three more steps are done."""
    tokenizer_weights(tmp_path)
    trainer = train("generator", tmp_path, FP32, "loop.steps=5")
    export, taken = trainer.export, []
    trainer.export = lambda folder, snapshot: taken.append(snapshot)

    save(trainer, tmp_path / "generator")
    trainer.checkpoints.wait()
    with torch.no_grad():
        for tensor in (*trainer.module.parameters(), *trainer.ema.tensors.values()):
            tensor.add_(1)
    export(tmp_path / "late", taken[0])
    saved = tmp_path / "generator" / "checkpoints" / "step-0000005"
    for late, early in (("network", "model"), ("network-ema", "ema")):
        found = load_file(tmp_path / "late" / f"{late}.safetensors")
        expected = load_file(saved / f"{early}.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_never_are_two_copies_of_the_state_in_memory(tmp_path, monkeypatch):
    tokenizer_weights(tmp_path)
    trainer = train("generator", tmp_path, FP32, "loop.steps=1")
    snapshot, written = keeping._snapshot, threading.Event()

    def seen(trainer):
        assert written.is_set() == (len(asked) > 0)  # the one before is on disk
        asked.append(trainer.step)
        return snapshot(trainer)

    asked = []
    trainer.export = lambda folder, taken: (time.sleep(0.2), written.set())
    monkeypatch.setattr(keeping, "_snapshot", seen)
    for _ in range(2):
        save(trainer, tmp_path / "generator")
    trainer.checkpoints.wait()
    assert len(asked) == 2


def test_an_export_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    tokenizer_weights(tmp_path)

    def broken(tensors, path):
        path.write_bytes(b"half")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("MaskGIL.weights.save_tensors", broken)
    with pytest.raises(OSError, match="Input/output error"):
        train("generator", tmp_path, FP32, "loop.steps=2")
    assert not (tmp_path / "generator" / "weights.tmp").exists()


def test_a_job_that_has_saved_meanwhile_is_noticed(tmp_path):
    """Between looking for the newest checkpoint and taking the lock."""
    tokenizer_weights(tmp_path)
    trainer = TRAINERS["generator"](config("generator", tmp_path, "loop.steps=2"))
    train("generator", tmp_path, "loop.steps=1")
    before = tree(tmp_path / "generator")
    with pytest.raises(UserError) as error:
        trainer.fit()
    assert str(error.value) == (
        f"out_dir={tmp_path / 'generator'} was written to by another job meanwhile; start the same "
        "command again."
    )
    assert tree(tmp_path / "generator") == before


def test_ranks_that_find_different_checkpoints_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("Trainer.keeping.all_gather_texts", lambda text: [text, "step-0000003"])
    tokenizer_weights(tmp_path)
    with pytest.raises(UserError, match=r"different places \(step-0000003, the beginning\); put"):
        train("generator", tmp_path, "loop.steps=1")
