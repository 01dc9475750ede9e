"""A set to be made and scored: what is announced is done, what cannot work is told first."""

import re

import numpy as np
import pytest
import torch
from tiny_weights import SIDE, save_tiny_weights

import FID_sample
from MaskGIL.config import load_config
from Metrics import job as module
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.job import Job
from Metrics.sample_config import SampleConfig
from Network.config import UserError

WORDS = ("num_images=40", "chunk=16", "reference=shapes:64", "device=cpu", "precision=fp32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture
def job(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: Job(
        load_config(SampleConfig, None, [f"weights={weights}", *WORDS, *words])
    )


class Counting(InceptionNetwork):
    """Stands in for the network; counts the images that pass."""

    def __init__(self):
        self.name, self.sha256, self.width, self.is_official = "counting", "0", 3, True
        self.passed = 0

    def outputs(self, images):
        self.passed += len(images)
        colours = images.float().mean((2, 3))
        return InceptionOutputs(colours, colours, colours)


@pytest.mark.parametrize("words", [(), ("ladder=true",), ("classifier=true",)])
def test_as_many_images_as_announced_pass_the_networks(job, monkeypatch, words, tmp_path, capsys):
    monkeypatch.setattr(module, "find_weights", lambda value: tmp_path)
    monkeypatch.setattr("Metrics.classifier.STEPS", 1)
    made = job("train=shapes:100", *words)
    plan, encoded = made.plan(), []
    encode = made.pipe.tokenizer.encode
    made.pipe.tokenizer.encode = lambda images: encoded.append(len(images)) or encode(images)
    inception = Counting()
    FID_sample.score(made, FID_sample.sample(made), inception)
    assert int(re.search(r"tokenizer  (\d+) images", plan)[1]) == sum(encoded)
    assert int(re.search(r"FID        (\d+) images", plan)[1]) == inception.passed
    assert ("classifier" in plan) == (words == ("classifier=true",))
    assert "FID" in capsys.readouterr().out


def test_ranks_that_do_not_score_open_no_training_images(job, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    other = job("train=nowhere")
    assert (other.train, other.open_inception()) == (None, None)
    assert len(other.reference) == 64  # its classes may be asked for


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["reference=shapes:1"], "reference=shapes:1 is one image; a distance needs two."),
        (["train=shapes:5", "ladder=true"], "ladder takes 3 draws of each set, which needs 6 "),
        (["reference=adm.npz", "inception=weights.pth"], "adm.npz has mu of shape (3,) and sigma"),
        (["reference=adm.npz", "train=shapes:9", "classifier=true"], "classifier=true needs image"),
        (["inception=nowhere"], "inception=nowhere is no file; give one, or auto, download, none."),
        (["classes=data", "reference=adm.npz"], "classes=data takes the shares of the classes fro"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_is_sampled(job, tmp_path, words, sentence):
    pixels = np.zeros((9, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "adm.npz", pixels, mu=np.zeros(3), sigma=np.eye(3))
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        job(*words)
    assert str(error.value).startswith(sentence)
