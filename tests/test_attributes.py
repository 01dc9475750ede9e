"""Attributes read back from drawings: true ones have them all, other prompts are at chance."""

import numpy as np
import pytest
import torch

from MaskGIL.data.scenes import Scenes
from Metrics.attributes import Drawings, facts_of, read_back
from Metrics.caption_set import CaptionSet
from Metrics.intervals import interval_of_rate
from Metrics.prompt_score import ATTRIBUTES, score_prompts

NUM, SIZE = 192, (48, 64)


@pytest.fixture(scope="module")
def captions():
    scenes = Scenes("val", NUM, SIZE, seed=5)
    said = [scenes.captions(row) for row in range(NUM)]
    return CaptionSet("scenes", "val", said, NUM, seed=1, scenes=scenes)


@pytest.fixture(scope="module")
def facts(captions):
    return [each for batch in Drawings(captions.scenes, captions.rows) for each in facts_of(batch)]


def test_drawings_are_those_of_the_rows(captions):
    drawings = Drawings(captions.scenes, captions.rows[:3])
    (images,) = drawings
    assert (len(drawings), images.shape, images.dtype) == (3, (3, 3, *SIZE), torch.uint8)
    for image, row in zip(images, captions.rows):
        expected = np.asarray(captions.scenes.image(int(row)))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert sum(map(len, Drawings(captions.scenes, np.arange(NUM).repeat(2)))) == 2 * NUM


def test_true_drawings_have_what_was_asked_and_shuffled_ones_are_at_chance(captions, facts):
    found = read_back(facts, captions.texts, facts)
    assert tuple(found) == ATTRIBUTES
    for name, attribute in found.items():
        assert attribute.ceiling == attribute.rate > 0.97, name
        low, high = interval_of_rate(attribute.shuffled, attribute.asked)
        assert low <= attribute.chance <= high, name
        assert attribute.low <= attribute.rate <= attribute.high


def test_a_picture_that_is_wrong_half_of_the_time_is_half_of_the_ceiling(captions, facts):
    """Chance, number and ceiling do not depend on which half it is."""
    wrong = [*facts[1:], facts[0]]
    mixed = [own if row % 2 else other for row, (own, other) in enumerate(zip(facts, wrong))]
    found, right = read_back(mixed, captions.texts, facts), read_back(facts, captions.texts, facts)
    for name in ("count", "relation", "everything"):
        half = (right[name].rate + right[name].shuffled) / 2
        assert found[name].rate == pytest.approx(half, abs=0.12)
        assert (found[name].ceiling, found[name].asked) == (right[name].ceiling, right[name].asked)
    expected = score_prompts(mixed, captions.texts)
    assert {name: each.chance for name, each in found.items()} == {
        name: each.chance for name, each in expected.items()
    }


def test_a_ceiling_of_too_few_is_none(captions, facts):
    found = read_back(facts, captions.texts, facts[:1])
    assert {each.ceiling for each in found.values()} == {None}
