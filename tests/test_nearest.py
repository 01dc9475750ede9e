"""The nearest training images. Distances and shares are tested in test_sample_and_eval too."""

import pytest
import torch

from Metrics.nearest import AS_THEY_ARE, RECONSTRUCTED, near_training, take_images, thumbnails


def pictures(count, seed):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(256, (count, 3, 8, 8), generator=random, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)  # (count, 3, 32, 32)


def reconstruct(images):
    """As a tokenizer with a few codes: half the colours are lost, and all become darker."""
    return images // 128 * 100


@pytest.fixture
def train():
    return pictures(60, seed=0)


def test_reconstructions_of_training_images_are_near_and_new_images_are_not(train):
    reference, new = pictures(80, seed=1), pictures(70, seed=2)
    known = thumbnails(reference, reconstruct)

    def near(samples):
        found = near_training(thumbnails(samples), known, train.split(7), reconstruct)
        assert found["how"].endswith(RECONSTRUCTED)
        assert found["reference share"] == 1 / 80  # the one below the quantile
        return found["share"]

    assert near(reconstruct(train[:50])) == 1  # what a perfect memoriser draws
    assert near(reconstruct(new)) < 0.06


def test_without_a_tokenizer_images_are_compared_as_they_are(train):
    known = thumbnails(pictures(80, seed=1))
    found = near_training(thumbnails(train[:9]), known, train.split(7))
    assert (found["share"], found["num_train"]) == (1, 60)
    assert found["how"].endswith(AS_THEY_ARE)


@pytest.mark.parametrize("batch", [7, 60])  # `cdist` is exact for small batches only
def test_copies_are_near_where_the_reference_has_copies_too(train, batch):
    samples = torch.cat([train[:40], pictures(10, seed=2)])
    found = near_training(thumbnails(samples), thumbnails(train), train.split(batch))
    assert (found["threshold"], found["count"], found["nearer"]) == (0, 40, 0)
    assert found["reference share"] == 1


@pytest.mark.parametrize("batch", [7, 60])
def test_the_nearest_image_is_found_whatever_the_batches(train, batch):
    rows = [59, 0, 7, 7]
    noise = torch.randint(3, (4, 3, 32, 32), dtype=torch.uint8)
    copies = train[rows].clamp(max=250) + noise
    known = thumbnails(pictures(5, seed=1))
    assert near_training(thumbnails(copies), known, train.split(batch))["nearest"] == rows
    assert torch.equal(take_images(train.split(batch), rows), train[rows])


def test_a_thumbnail_is_the_mean_of_its_squares():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[0, 1, :2, :2] = 255
    small = thumbnails(images).view(3, 16, 16)
    assert small[1, 0, 0] == 1
    assert small.sum() == 1
