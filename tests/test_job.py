"""A set to be made and scored: what is announced is done, what cannot work is told first."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.config import load_config
from Metrics import job as module
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.job import Job, Share
from Metrics.pretrained import file_sha256
from Metrics.progress import counted
from Metrics.reference import CROP
from Metrics.sample_config import SampleConfig
from Metrics.scored_set import score
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
    found = SimpleNamespace(find=lambda value: tmp_path)
    monkeypatch.setattr(module, "INCEPTION", found)
    monkeypatch.setattr("Metrics.classifier.STEPS", 1)
    made = job("train=shapes:100", *words)
    plan, encoded = made.plan(), []
    encode = made.pipe.tokenizer.encode
    made.pipe.tokenizer.encode = lambda images: encoded.append(len(images)) or encode(images)
    inception = Counting()
    monkeypatch.setattr(module, "open_inception", lambda value, device: inception)
    evaluation = made.evaluation(counted)
    made.begin()
    share = Share(made)
    samples = evaluation.look(share, share.pieces)
    made.finish(share)
    score(made, evaluation, samples)
    assert int(re.search(r"tokenizer  (\d+) images", plan)[1]) == sum(encoded)
    assert int(re.search(r"FID        (\d+) images", plan)[1]) == inception.passed
    assert ("classifier" in plan) == (words == ("classifier=true",))
    assert "FID" in capsys.readouterr().out


def test_what_one_rank_has_made_another_run_goes_on_with(job, monkeypatch, tmp_path):
    whole = job("out=whole.npz", "reference=")
    finish(whole)
    with monkeypatch.context() as second:
        second.setenv("RANK", "1")
        second.setenv("WORLD_SIZE", "2")
        share = Share(begun := job("reference="))
        begun.partial.begin(begun.samples)
        assert (sum(map(len, share)), len(share), share.num_made) == (16, 16, 16)
    rest = job("reference=")
    assert "\ncontinued  16 images are there already" in rest.plan()
    share = finish(rest)
    assert (len(share), share.num_made) == (40, 24)
    assert (tmp_path / "samples.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert rest.record["made"]["images"] == 24


def finish(made):
    made.begin()
    share = Share(made)
    assert sum(map(len, share)) == len(share)
    made.finish(share)
    return share


def test_the_disk_that_is_taken_is_told(job):
    assert "\ndisk       0.00 GB for samples.npz, twice that while it is packed" in job().plan()
    assert "is packed, at most as much in new" in job("png=new").plan()


def test_the_reference_and_weights_that_give_no_fid_are_told(job, tmp_path):
    torch.save({}, tmp_path / "weights.pth")
    sha256 = file_sha256(tmp_path / "weights.pth")
    plan = job("inception=weights.pth").plan()
    assert f"\nreference  shapes (val): 64 of val, {CROP}\n" in plan
    assert f"cpu; no FID: not the released weights (sha256 {sha256[:8]})\n" in plan
    np.savez(tmp_path / "a.npz", np.zeros((9, SIDE, SIDE, 3), np.uint8))
    words = ("reference=a.npz", "reference_split=train", "inception=none")
    plan = job(*words).plan()
    assert "\nreference  a.npz: 9 of train, as they are in the file\n" in plan
    assert "no FID" not in plan


def test_a_set_of_fewer_images_than_its_record_says_is_refused(job, tmp_path):
    finish(job())
    with np.load(tmp_path / "samples.npz") as arrays:
        np.savez(tmp_path / "fewer.npz", arrays["arr_0"][:30], arrays["arr_1"][:30])
    (tmp_path / "fewer.npz").rename(tmp_path / "samples.npz")
    with pytest.raises(UserError) as error:
        job()
    assert str(error.value) == (
        "out=samples.npz has changed since its record was written; name another."
    )


def test_a_whole_set_gets_no_png_files(job, tmp_path):
    finish(job("png=with"))
    job("png=with")  # the same command again
    with pytest.raises(UserError) as error:
        job("png=without")
    assert str(error.value) == (
        "png=without is written while images are sampled, and samples.npz is whole already; leave "
        "png out, or name another out."
    )


def test_another_size_belongs_to_the_set(job, tmp_path):
    made = job("height=32", "width=32", "resize=24", "reference=shapes:64")
    assert "samples    40 of 32x32, " in made.plan()
    assert "\nresized    to 24x24, bicubic (a = -0.75), " in made.plan()
    assert (made.reference.__iter__().__next__().shape[2:]) == (24, 24)
    finish(made)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (40, 24, 24, 3)
    with pytest.raises(UserError, match=r"is another set: resize is 24 there and None here"):
        job("height=32", "width=32")
    assert "height" not in job("out=plain.npz").samples  # as records of earlier versions


def test_a_sampler_is_checked_on_the_grid_that_is_drawn(job):
    """Positions beyond training and counts of their own belong to the size that is asked for."""
    larger = ("height=32", "width=32", "resize=24", "reference=")
    assert job(*larger, "positions=ntk").pipe.sampling.positions == "ntk"
    counts = ("counts=100,156", "out=b.npz")  # of 16 x 16 tokens
    assert "sampler    2 steps, " in job(*larger, *counts).plan()
    with pytest.raises(UserError, match=r"^positions=ntk has no effect"):
        job("positions=ntk", "out=c.npz")


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


@pytest.mark.parametrize("inception", ["none", "download"])
def test_a_damaged_covariance_is_told_before_anything_is_sampled(job, tmp_path, inception):
    """The record tells its hash even where no network can use it."""
    arrays = {"arr_0": np.zeros((9, SIDE, SIDE, 3), np.uint8), "mu": np.zeros(3)}
    np.savez(tmp_path / "nan.npz", **arrays, sigma=np.diag([1, np.nan, 1]))
    np.savez(tmp_path / "flipped.npz", **arrays, sigma=np.full((3, 3), 77.0))
    data = (tmp_path / "flipped.npz").read_bytes()
    start = data.rindex(np.float64(77).tobytes())
    flipped = data[:start] + b"\1" + data[start + 1 :]
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name, sentence in {
        "nan": "nan.npz has NaN or infinity in its sigma; copy it again or make it anew.",
        "flipped": "flipped.npz is no whole .npz file (Bad CRC-32 for file 'sigma.npy'): it was ",
    }.items():
        with pytest.raises(UserError) as error:
            job(f"reference={name}.npz", f"inception={inception}")
        assert str(error.value).startswith(sentence)
