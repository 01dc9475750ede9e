"""Images as a tokenizer draws them."""

from types import SimpleNamespace

import pytest
import torch
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.pipeline import Pipeline
from Metrics.redrawn import Redrawn, reconstructed, shuffled
from Metrics.reference import open_image_set


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")
    return Pipeline.from_pretrained(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def drawn():
    return open_image_set("train", "shapes:5", "train", (SIDE, SIDE))


def test_reconstructions_are_what_the_tokenizer_makes_whatever_the_chunk(pipe, drawn):
    images = next(iter(drawn))
    with torch.no_grad():
        expected = to_uint8(pipe.tokenizer(to_float(images))[0])
    for chunk in (2, 5):
        found = reconstructed(pipe, images, chunk)
        assert (found.int() - expected.int()).abs().max() <= 1  # rounding depends on the batch
    assert found.dtype == torch.uint8
    assert not torch.equal(found, images)


def test_shuffled_tokens_are_all_there_in_one_order_for_every_image():
    numbers = torch.arange(12).view(3, 4)

    class Numbering:
        device = "cpu"
        tokenizer = SimpleNamespace(encode=lambda images: numbers.expand(len(images), 3, 4))

        def pixels(self, tokens, clamp=True):
            return tokens[:, None] / 12  # (B, 1, h, w)

    images = torch.zeros(5, 3, 12, 16, dtype=torch.uint8)
    found = shuffled(Numbering(), images, chunk=2)
    plain = reconstructed(Numbering(), images, chunk=2)
    assert torch.equal(found.flatten(1).sort(1).values, plain.flatten(1).sort(1).values)
    assert torch.equal(found, found[:1].expand_as(found))
    assert not torch.equal(found, plain)


def test_redrawn_has_the_length_and_labels_of_what_it_redraws(drawn):
    images = Redrawn(drawn, lambda images: 255 - images)
    assert len(images) == 5
    assert images.labels is drawn.labels
    assert torch.equal(next(iter(images)), 255 - next(iter(drawn)))
