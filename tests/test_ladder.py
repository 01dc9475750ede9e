"""The ladder: sets of known order, in draws of one size that share no image."""

import pytest
import torch

from Metrics.features import load_feature_network
from Metrics.inception_metrics import distance
from Metrics.ladder import ORDER, draw_size, ladder, rungs
from Metrics.redrawn import Redrawn
from Metrics.reference import open_image_set
from Metrics.seen import DRAWS, Seen, in_draws
from Network.config import UserError

SIDE = 32


@pytest.fixture(scope="module")
def real():
    return open_image_set("reference", "shapes:256", "val", (SIDE, SIDE))


def noisy(amount):
    """Images with so much noise: what a poor tokenizer or sampler would make of them."""

    def redraw(images):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + amount * noise).clamp(0, 255).to(torch.uint8)

    return redraw


def test_the_sets_come_in_order_and_each_distance_is_of_one_draw(real):
    network = [load_feature_network()]
    train = open_image_set("train", "shapes:300", "train", (SIDE, SIDE))
    sets = [train, *(Redrawn(real, noisy(amount)) for amount in (15, 30, 60))]
    seen = [
        Seen(images, len(images), network, part_of=in_draws(len(images), 85)) for images in sets
    ]
    whole = Seen(real, 256, network).statistics[0]
    draws = {name: each.parts[0][:DRAWS] for name, each in zip(ORDER, seen)}
    found = ladder(draws, whole)
    assert found["count"] == 85
    assert found["in order"]
    assert list(found["distances"]) == list(ORDER)
    assert found["distances"]["samples"] == [distance(d, whole) for d in seen[2].parts[0][:DRAWS]]
    assert all(len(set(each)) == DRAWS for each in found["distances"].values())
    swapped = {**draws, "train": draws["samples"], "samples": draws["train"]}
    assert not ladder(swapped, whole)["in order"]


def test_a_draw_is_a_third_of_the_smallest_set():
    assert draw_size([888, 6674, 888]) == 296
    with pytest.raises(UserError) as error:
        draw_size([888, 5, 888])
    assert str(error.value) == (
        "ladder takes 3 draws of each set, which needs 6 samples, reference and training images; "
        "the smallest set has 5."
    )


def test_every_set_but_the_samples_is_made_of_training_images(real):
    class Doubling:
        device = "cpu"

        class tokenizer:
            @staticmethod
            def encode(images):
                return (images[:, 0] * 127.5 + 127.5).round().long()  # (B, h, w): the red channel

        def pixels(self, tokens, clamp=True):
            return (tokens[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)

    sets = rungs(Doubling(), real, chunk=64)
    assert sets["train"] is real
    (images,) = real
    (reconstructed,), (shuffled,) = (
        list(sets[name]) for name in ("reconstructions", "shuffled tokens")
    )
    assert torch.equal(reconstructed, images[:, :1].expand_as(images))
    assert not torch.equal(shuffled, reconstructed)
    assert torch.equal(shuffled.flatten(1).sort(1).values, reconstructed.flatten(1).sort(1).values)
    assert set(sets) | {"samples"} == set(ORDER)
