"""The nearest training images. `near_training` is tested in test_sample_and_eval."""

import torch

from Metrics.nearest import nearest_training, thumbnails


def test_a_copy_is_found_whatever_the_batches():
    train = torch.randint(256, (23, 3, 32, 32), dtype=torch.uint8)
    rows = torch.tensor([22, 0, 7])
    noise = torch.randint(3, (3, 3, 32, 32), dtype=torch.uint8)
    copies = (train[rows].clamp(max=250) + noise).to(torch.uint8)
    for batch in (5, 23):
        assert torch.equal(nearest_training(copies, train.split(batch)), train[rows])


def test_a_thumbnail_is_the_mean_of_its_squares():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[0, 1, :2, :2] = 255
    small = thumbnails(images).view(3, 16, 16)
    assert small[1, 0, 0] == 1
    assert small.sum() == 1
