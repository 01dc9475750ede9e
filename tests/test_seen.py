"""What is remembered of images: statistics of every network, a hash, thumbnails of a few."""

import hashlib

import numpy as np
import pytest
import torch

from MaskGIL.noise import random_bits
from Metrics import seen
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.nearest import thumbnails
from Metrics.seen import Seen, in_draws


class Means:
    """The simplest feature network: mean colours."""

    name, sha256, width = "means", "0", 3

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, images):
        return images.float().mean((2, 3)) * self.factor


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (50, 3, 16, 16), generator=random, dtype=torch.uint8)


def test_statistics_are_those_of_all_images_by_every_network(images):
    found = Seen(images.split(7), 50, [Means(), Means(2.0)])
    features = images.double().mean((2, 3))
    for statistics, factor in zip(found.statistics, (1, 2)):
        torch.testing.assert_close(statistics.mean, features.mean(0) * factor)
        torch.testing.assert_close(statistics.covariance, features.T.cov() * factor**2)
    assert found.count == 50
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    assert found.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_draws_share_no_image_and_make_the_whole_together_with_the_rest(images):
    found = Seen(images.split(7), 50, [Means(), Means(2.0)], part_of=in_draws(50, 15))
    features = images.double().mean((2, 3))
    order = random_bits(torch.tensor(0), "order", 0, torch.arange(50)).argsort(stable=True)
    for number, rows in enumerate(order[:45].split(15)):
        draw = found.parts[0][number]
        assert draw.count == 15
        torch.testing.assert_close(draw.mean, features[rows].mean(0))
        torch.testing.assert_close(draw.covariance, features[rows].T.cov())
        torch.testing.assert_close(found.parts[1][number].mean, 2 * draw.mean)
    assert found.statistics[0].count == 50
    torch.testing.assert_close(found.statistics[0].covariance, features.T.cov())


def test_few_thumbnails_are_kept_however_many_images_there_are(images, monkeypatch):
    whole = Seen(images.split(7), 50, [], thumbnails=True)
    assert whole.kept.tolist() == list(range(50))
    torch.testing.assert_close(whole.thumbnails, thumbnails(images))
    monkeypatch.setattr(seen, "MOST_THUMBNAILS", 8)
    few = Seen(images.split(7), 50, [], thumbnails=True)
    assert few.kept.tolist() == np.linspace(0, 49, 8).astype(int).tolist()
    torch.testing.assert_close(few.thumbnails, thumbnails(images[few.kept]))


def test_thumbnails_are_seen_through_the_tokenizer_and_nothing_else_is(images):
    found = Seen([images], 50, [Means()], lambda images: images // 2, thumbnails=True)
    torch.testing.assert_close(found.thumbnails, thumbnails(images // 2))
    torch.testing.assert_close(found.statistics[0].mean, images.double().mean((0, 2, 3)))


def test_a_set_that_is_not_whole_is_no_set(images):
    with pytest.raises(AssertionError, match="50 images, announced were 51"):
        Seen([images], 51, [Means()])


class Outputs(InceptionNetwork):
    """Stands in for the Inception network."""

    def __init__(self):
        self.name, self.sha256, self.width, self.passes = "outputs", "0", 3, 0

    def outputs(self, images):
        self.passes += 1
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means[:, :2] * 2, means[:, :1] * 3)


def test_one_pass_keeps_features_spatial_statistics_and_logits(images):
    network = Outputs()
    found = Seen(images.split(7), 50, [Means(), network], features=True, spatial=True)
    assert network.passes == 8
    means = images.float().mean((2, 3))
    for features in found.features:
        assert torch.equal(features, means)
    torch.testing.assert_close(found.spatial.mean, 2 * means[:, :2].double().mean(0))
    assert found.spatial.count == 50
    assert torch.equal(found.logits, 3 * means[:, :1])
    assert torch.equal(found.spatial_features, 2 * means[:, :2])


def test_features_are_kept_only_where_they_are_asked_for(images):
    network = Outputs()
    found = Seen(images.split(7), 50, [Means(), network])
    assert [len(features) for features in found.features] == [0, 0]
    assert found.spatial.count == 0
    statistics_alone = Seen(images.split(7), 50, [network], spatial=True)
    assert statistics_alone.spatial_features is None
    assert statistics_alone.spatial.count == 50
    assert found.statistics[1].count == 50
