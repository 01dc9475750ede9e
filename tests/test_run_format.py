"""A run that an earlier version has written is read by this one, and loses the same.

`fixtures/run-format-2/` was made by commit 8d52ce5 with torch 2.15.0 on a CPU with one thread: an
untrained tokenizer, its cache of 24 drawn images, a generator of 7,224 weights trained on them for
50 steps, the losses of these steps, and the checkpoint of step 8. `fixtures/run-format-1/` is the
same of commit 8ee885b, the first version with exact resume.
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

FIXTURES = [Path(__file__).parent / "fixtures" / f"run-format-{number}" for number in (1, 2)]
ACROSS_VERSIONS = 1e-3  # sums of another torch are rounded in another order


@pytest.fixture
def train(tmp_path):
    """Go on with the run of a fixture, or begin it; returns trainer, its losses and the stored."""

    def train(fixture, again):
        for name in ("weights", "cache", *(["run"] if again else [])):
            shutil.copytree(fixture / name, tmp_path / name)
        words = [f"out_dir={tmp_path / 'run'}", f"tokenizer.weights={tmp_path / 'weights'}"]
        words += [f"data.cache={tmp_path / 'cache'}"]
        trainer = GeneratorTrainer(load_config(RunConfig, fixture / "run" / "config.yaml", words))
        trainer.fit()
        stored = json.loads((fixture / "losses.json").read_text())["losses"]
        return trainer, losses(tmp_path / "run"), torch.tensor(stored, dtype=torch.float64)

    return train


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_a_checkpoint_of_an_earlier_version_goes_on_with_the_same_losses(train, fixture):
    trainer, found, expected = train(fixture, again=True)
    assert (trainer.log.start, trainer.step) == (8, 50)
    torch.testing.assert_close(found, expected[8:], rtol=ACROSS_VERSIONS, atol=0)


def test_fifty_steps_lose_what_they_lost(train):
    """And no step, mask, dropped class or order of samples can have changed unnoticed."""
    trainer, found, expected = train(FIXTURES[-1], again=False)
    assert trainer.log.start == 0
    torch.testing.assert_close(found, expected, rtol=ACROSS_VERSIONS, atol=0)
    moved = (expected[1:] - expected[:-1]).abs() / expected[1:]
    assert moved.median() > 5 * ACROSS_VERSIONS  # so another order would show
