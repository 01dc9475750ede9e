"""The numbers of the released network: of which statistics, and what they are called."""

from functools import partial

import numpy as np
import pytest
import torch

from Metrics import inception_metrics, published
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.inception_metrics import frechet_distance
from Metrics.inception_score import SEED, adm_inception_score, inception_score
from Metrics.intervals import beyond_bias, interval_of_blocks
from Metrics.published import (
    NAMES,
    distance_to,
    spatial_and_inception_score,
    unpublished,
)
from Metrics.reference import open_image_set
from Metrics.seen import Seen
from Network.config import UserError

SIDE, COUNT = 16, 24
LABELS = np.arange(COUNT) % 3
SPATIAL_WIDTH = 4  # of the stand-in: a distance of 2023 numbers takes seconds


class Patches(InceptionNetwork):
    """Stands in for the released network: mean colours, and a few pixels."""

    def __init__(self, official=True):
        self.name, self.sha256, self.width, self.is_official = "patches", "0", 3, official

    def outputs(self, images):
        features = images.float().mean((2, 3))
        spatial = images.float().flatten(1)[:, :SPATIAL_WIDTH] / 255
        return InceptionOutputs(features, spatial, features[:, :2] / 20)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(published, "SPATIAL_WIDTH", SPATIAL_WIDTH)


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, COUNT, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)


def saved(folder, images, **arrays):
    np.savez(folder / "a.npz", arr_0=images.permute(0, 2, 3, 1).numpy(), **arrays)
    return open_image_set("reference", str(folder / "a.npz"), "val", (SIDE, SIDE))


def look(images, features=False):
    return Seen(images.split(7), COUNT, [Patches()], spatial=True, features=features)


def score(samples, real, reference):
    return spatial_and_inception_score(samples, real, reference, LABELS)


def test_scores_are_of_what_the_network_gives_in_one_pass(images, tmp_path):
    samples, real = map(look, images)
    found, intervals = score(samples, real, saved(tmp_path, images[1]))
    one, other = (Patches().outputs(x).spatial.double() for x in images)
    expected = frechet_distance(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    assert found["sfid"] == pytest.approx(expected)
    logits = Patches().outputs(images[0]).logits
    assert found["inception_score"] == pytest.approx(adm_inception_score(logits)[0])
    assert found["inception_score_shuffled"] == pytest.approx(inception_score(logits, 10, SEED)[0])
    assert {*found, "fid"} == {*NAMES, "inception_score_note"}
    assert intervals.keys() == {"shuffled inception score"}


def test_intervals_are_of_what_is_kept_and_of_the_blocks(images, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ADM_BLOCK", 5)
    monkeypatch.setattr(published, "adm_inception_score", partial(adm_inception_score, block=5))
    samples, real = look(images[0], features=True), look(images[1])
    found, intervals = score(samples, real, saved(tmp_path, images[1]))
    logits = Patches().outputs(images[0]).logits
    blocks = [inception_score(block, 1)[0] for block in logits.split(5)]  # of 5, 5, 5, 5, 4
    reach = 2.7764451 * np.std(blocks, ddof=1) / 5**0.5  # Student's t of 4
    ends = intervals.pop("inception score")
    assert (ends["low"], ends["high"]) == pytest.approx(
        (found["inception_score"] - reach, found["inception_score"] + reach)
    )
    mean, deviation = inception_score(logits, 10, SEED)
    ends = intervals.pop("shuffled inception score")
    assert ends == interval_of_blocks(mean, deviation, 10)._asdict()

    def distance(statistics):
        return inception_metrics.distance(statistics, real.spatial)

    rows = Patches().outputs(images[0]).spatial
    assert intervals.pop("sFID") == pytest.approx(
        beyond_bias(rows, LABELS, distance, found["sfid"])
    )
    assert not intervals


def test_a_reference_of_adm_is_its_statistics(images, tmp_path):
    samples, real = map(look, images)
    moments = {"mu": np.zeros(3), "sigma": np.eye(3)}
    without = saved(tmp_path, images[1], **moments)
    assert score(samples, real, without)[0]["sfid"] is None
    spatial = {"mu_s": np.zeros(SPATIAL_WIDTH), "sigma_s": np.eye(SPATIAL_WIDTH)}
    adm = saved(tmp_path, images[1], **moments, **spatial)
    statistics = samples.spatial
    expected = frechet_distance(statistics.mean, statistics.covariance, *spatial.values())
    assert score(samples, real, adm)[0]["sfid"] == pytest.approx(expected)
    distance = distance_to(adm, real.statistics[0], Patches())
    seen = samples.statistics[0]
    expected = frechet_distance(seen.mean, seen.covariance, *moments.values())
    assert distance.of(seen) == pytest.approx(expected)
    assert distance.note(50_000) == (
        "torch-fidelity's Inception; 50,000 images, mu and sigma in the file of the reference"
    )
    assert distance.note(9_999).endswith("; too few to compare with published ones")
    wrong = saved(tmp_path, images[1], mu=np.zeros(3), sigma=np.eye(3), mu_s=[0], sigma_s=[[0]])
    with pytest.raises(UserError, match=r"has mu_s of shape \(1,\) and sigma_s of \(1, 1\), the f"):
        score(samples, real, wrong)


def test_only_the_released_network_makes_an_fid(images, tmp_path):
    reference, real = saved(tmp_path, images[1]), look(images[1]).statistics[0]
    assert distance_to(reference, real, Patches()).is_fid
    other = distance_to(reference, real, Patches(official=False))
    assert (other.name, other.prefix, other.is_fid) == ("patches distance", "patches ", False)
    assert other.of(real) == pytest.approx(0, abs=1e-9)


def test_blank_numbers_say_why(images, tmp_path):
    reference = saved(tmp_path, images[1])
    for arguments, why in (
        ((None, Patches()), "no reference"),
        ((reference, None), "no Inception weights at hand: inception=FILE or inception=download"),
        (
            (reference, Patches(official=False)),
            "patches is not the Inception network that defines it",
        ),
    ):
        found = unpublished(*arguments)
        assert [found[name] for name in NAMES] == [None] * 4
        assert found["fid_note"] == found["inception_score_note"] == why
