import pytest
import torch

from MaskGIL.noise import random_bits
from Metrics.features import load_feature_network
from Metrics.inception_metrics import FeatureStatistics, frechet_distance
from Metrics.ladder import DRAWS, Redrawn, ladder
from Metrics.reference import open_image_set

SIDE = 32


@pytest.fixture(scope="module")
def network():
    return load_feature_network()


@pytest.fixture(scope="module")
def train():
    return open_image_set("train", "shapes:300", "train", (SIDE, SIDE))


@pytest.fixture(scope="module")
def val():
    return open_image_set("reference", "shapes:256", "val", (SIDE, SIDE))


def noisy(amount):
    """Images with so much noise: what a poor tokenizer or sampler would make of them."""

    def redraw(images):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + amount * noise).clamp(0, 255).to(torch.uint8)

    return redraw


def test_the_rungs_are_in_order_at_one_number_of_images(network, train, val):
    rungs = {"train": train} | {str(a): Redrawn(val, noisy(a)) for a in (15, 30, 60)}
    found = ladder(rungs, val, network)
    assert found["count"] == 128  # half of the 256 of the smallest
    assert list(found["distances"]) == ["train", "15", "30", "60"]
    draws = torch.tensor(list(found["distances"].values()))  # (rungs, draws)
    assert draws.shape == (4, DRAWS)
    assert (draws[1:].min(1).values > draws[:-1].max(1).values).all()
    assert all(len(set(each)) == DRAWS for each in found["distances"].values())


def test_a_draw_is_the_distance_of_the_images_that_it_takes(network, train, val):
    found = ladder({"train": train}, val, network)["distances"]["train"][1]
    images = torch.cat(list(train))
    bits = random_bits(torch.tensor(1), "order", 0, torch.arange(300))
    taken = images[bits.argsort(stable=True)[:150].sort().values]
    drawn, real = FeatureStatistics(), FeatureStatistics()
    drawn.update(network(taken))
    real.update(network(torch.cat(list(val))))
    expected = frechet_distance(drawn.mean, drawn.covariance, real.mean, real.covariance)
    assert found == pytest.approx(expected, rel=1e-4)


def test_redrawn_has_the_length_of_what_it_redraws(val):
    images = Redrawn(val, lambda images: 255 - images)
    assert len(images) == 256
    assert torch.equal(next(iter(images)), 255 - next(iter(val)))
