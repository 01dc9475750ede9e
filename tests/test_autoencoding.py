"""What the trainer of tokenizers computes in a step."""

import pytest
import tiny
import torch

from Network.tokenizer.discriminator import PatchDiscriminator
from Trainer.autoencoding import Reconstruction, pixel_loss
from Trainer.config import ReconstructionConfig


def images(count=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1


def test_without_a_contest_it_is_the_tokenizer():
    tokenizer = tiny.tokenizer()
    found = Reconstruction(tokenizer)(images())
    drawn, tokens, losses = tokenizer(images())
    assert torch.equal(found.images, drawn)
    assert torch.equal(found.tokens, tokens)
    assert found.losses == losses
    assert found.verdicts is None
    assert torch.equal(found.latents, tokenizer.latents(images()))


def test_in_a_contest_there_is_a_verdict_on_each_patch():
    module = Reconstruction(tiny.tokenizer(), PatchDiscriminator(4, 2))
    found = module(images(), contest=True).verdicts
    assert found.real.shape == found.drawn.shape == found.heard.shape == (2, 1, 2, 2)
    assert not torch.equal(found.real, found.drawn)
    assert module(images()).verdicts is None


def test_what_checkpoints_hold():
    plain = Reconstruction(tiny.tokenizer()).state_dict()
    assert all(name.startswith("tokenizer.") for name in plain)
    contest = Reconstruction(tiny.tokenizer(), PatchDiscriminator(4, 2)).state_dict()
    added = contest.keys() - plain.keys()
    assert "means" in added
    assert {name.split(".")[0] for name in added} == {"means", "discriminator"}


def test_pixel_loss_by_hand():
    error = torch.tensor([0.5, -1.0, 0.0, 2.0])
    found = pixel_loss(error, ReconstructionConfig(l1=2, l2=10))
    assert found.item() == pytest.approx(2 * 3.5 / 4 + 10 * 5.25 / 4)
