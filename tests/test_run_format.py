"""A run that an earlier version has written is read by this one, and loses the same.

`fixtures/run-format-2/` was made by commit 8d52ce5 with torch 2.15.0 on a CPU with one thread: an
untrained tokenizer, its cache of 24 drawn images, a generator of 7,224 weights trained on them for
50 steps, the losses of these steps, and the checkpoint of step 8.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import losses

from MaskGIL.config import load_config
from Trainer.config import RunConfig
from Trainer.vit import GeneratorTrainer

FIXTURE = Path(__file__).parent / "fixtures" / "run-format-2"
EXPECTED = json.loads((FIXTURE / "losses.json").read_text())["losses"]
ACROSS_VERSIONS = 1e-3  # sums of another torch are rounded in another order


@pytest.fixture
def train(tmp_path):
    """Go on with the run of the fixture, or begin it; returns trainer and losses."""
    for name in ("weights", "cache"):
        shutil.copytree(FIXTURE / name, tmp_path / name)

    def train():
        words = [f"out_dir={tmp_path / 'run'}", f"tokenizer.weights={tmp_path / 'weights'}"]
        words += [f"data.cache={tmp_path / 'cache'}"]
        trainer = GeneratorTrainer(load_config(RunConfig, FIXTURE / "run" / "config.yaml", words))
        trainer.fit()
        return trainer, losses(tmp_path / "run")

    return train


def test_a_checkpoint_of_an_earlier_version_goes_on_with_the_same_losses(train, tmp_path):
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    trainer, found = train()
    assert (trainer.log.start, trainer.step) == (8, 50)
    expected = torch.tensor(EXPECTED[8:], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=ACROSS_VERSIONS, atol=0)


def test_fifty_steps_lose_what_they_lost(train):
    """And no step, mask, dropped class or order of samples can have changed unnoticed."""
    trainer, found = train()
    assert trainer.log.start == 0
    expected = torch.tensor(EXPECTED, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=ACROSS_VERSIONS, atol=0)
    moved = (expected[1:] - expected[:-1]).abs() / expected[1:]
    assert moved.median() > 5 * ACROSS_VERSIONS  # so another order would show
