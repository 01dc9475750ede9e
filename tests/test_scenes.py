from collections import Counter

import numpy as np
import pytest

from MaskGIL.config import DataConfig
from MaskGIL.data import open_images
from MaskGIL.data.descriptions import (
    GROUNDS,
    RELATIONS,
    Description,
    Group,
    read_sentence,
    sentences,
)
from MaskGIL.data.scenes import NUMBERS, RADIUS, Scenes, random_scene
from MaskGIL.data.shapes import COLOURS, SHAPES
from Network.config import UserError

SIZES = [(64, 64), (48, 96), (120, 40), (16, 16)]


def corners(item, size):
    """Top, left, bottom and right of an object in short sides, as drawn in fine pixels."""
    fine = (np.arange(400) + 0.5) / 200 - 1
    inside = SHAPES[item.shape].distance(fine[:, None], fine[None, :]) < 0
    rows, columns = (fine[inside.any(axis=axis)] * item.size for axis in (1, 0))
    row, column = item.row * size[0] / min(size), item.column * size[1] / min(size)
    return row + rows[0], column + columns[0], row + rows[-1], column + columns[-1]


def assert_true(sentence, scene, size):
    """That what a sentence says can be measured in the scene."""
    said = read_sentence(sentence)
    counts = Counter(Group(0, item.colour, item.shape) for item in scene.objects)
    assert counts == {group._replace(number=0): group.number for group in said.groups}
    boxes = [
        [corners(i, size) for i in scene.objects if (i.colour, i.shape) == group[1:]]
        for group in said.groups
    ]
    if said.relation:
        axis = list(RELATIONS).index(said.relation)
        assert max(box[2 + axis] for box in boxes[0]) < min(box[axis] for box in boxes[1])
    high, wide = np.array(size) / min(size)
    every = [box for group in boxes for box in group]
    assert all(min(box) > 0 and box[2] < high and box[3] < wide for box in every)


@pytest.mark.parametrize("size", SIZES)
def test_captions_are_true(size):
    scenes = Scenes("train", 60, size, seed=1)
    for index in range(60):
        captions, scene = scenes.captions(index), scenes.scene(index)
        assert len(captions) == len(set(captions)) == 2
        for caption in captions:
            assert read_sentence(caption) == scenes.description(index)
            assert_true(caption, scene, size)
    assert np.asarray(scenes.image(0)).shape == (*size, 3)


def test_the_sentence_of_a_false_caption_is_found_out():
    pair = Description((Group(2, "red", "ring"), Group(1, "blue", "ring")), "above", "dark")
    scene = random_scene(pair, (64, 64), np.random.default_rng(0))
    assert_true(sentences(pair)[0], scene, (64, 64))
    turned = pair._replace(groups=pair.groups[::-1])
    for false in (turned, pair._replace(relation="left of"), Description(pair.groups[:1])):
        with pytest.raises(AssertionError):
            assert_true(sentences(false)[0], scene, (64, 64))


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_shapes_find_room_in_every_relation(size):
    """Triangles reach farthest, so whatever fits them fits all."""
    assert max(RADIUS, key=RADIUS.__getitem__) == "triangle"
    for numbers in NUMBERS:
        groups = tuple(Group(n, c, "triangle") for n, c in zip(numbers, ("red", "blue")))
        for relation in RELATIONS if len(groups) == 2 else ("",):
            for seed in range(6):
                description = Description(groups, relation, "light")
                scene = random_scene(description, size, np.random.default_rng(seed))
                assert_true(str(description), scene, size)


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_no_object_touches_another(size):
    scenes = Scenes("val", 60, size)
    reach = {  # measured on the outline, so that the table of the code is checked too
        name: max(np.hypot(*corner) for corner in outline(shape)) for name, shape in SHAPES.items()
    }
    for index in range(60):
        objects = scenes.scene(index).objects
        centres = [np.multiply((i.row, i.column), size) / min(size) for i in objects]
        for one in range(len(objects)):
            for other in range(one):
                apart = np.linalg.norm(centres[one] - centres[other])
                ends = sum(reach[objects[i].shape] * objects[i].size for i in (one, other))
                assert apart > ends + 0.03


def outline(shape):
    fine = np.linspace(-0.7, 0.7, 281)
    inside = shape.distance(fine[:, None], fine[None, :]) < 0
    return np.stack([fine[axis] for axis in np.nonzero(inside)], axis=1)


def test_everything_is_shown_and_val_shows_only_what_train_never_does():
    train, val = (Scenes(split, 400, (64, 64)) for split in ("train", "val"))
    shown = [
        {d._replace(ground="") for d in map(scenes.description, range(400))}
        for scenes in (train, val)
    ]
    assert not any(description.is_held_out for description in shown[0])
    assert all(description.is_held_out for description in shown[1])
    for scenes in (train, val):
        descriptions = [scenes.description(index) for index in range(400)]
        numbers = Counter(tuple(g.number for g in d.groups) for d in descriptions)
        assert set(numbers) == set(NUMBERS)
        for kind, often in Counter(NUMBERS).items():
            assert 0.5 < numbers[kind] / (400 * often / len(NUMBERS)) < 1.5
        assert {d.ground for d in descriptions} == set(GROUNDS)
        assert {d.relation for d in descriptions} == {"", *RELATIONS}
        groups = [group for d in descriptions for group in d.groups]
        assert {g[1:] for g in groups} == {(c, s) for c in COLOURS for s in SHAPES}


def test_same_key_same_picture_whatever_was_drawn_before():
    few, many = Scenes("train", 20, (64, 64), seed=3), Scenes("train", 900, (64, 64), seed=3)
    many.image(800)
    assert few.scene(7) == many.scene(7)
    assert few.captions(7) == many.captions(7)
    assert np.array_equal(np.asarray(few.image(7)), np.asarray(many.image(7)))
    others = [Scenes("val", 20, (64, 64), seed=3), Scenes("train", 20, (64, 64), seed=4)]
    assert len({scenes.scene(7) for scenes in (few, *others)}) == 3
    assert len({scenes.name(7) for scenes in (few, *others)}) == 3
    assert len({few.name(index) for index in range(20)}) == 20


def test_it_is_a_source_of_images():
    images = open_images(DataConfig(source="scenes", num_images=3000, image_size=32), "train")
    assert len(images) == len(images.labels) == 3000
    assert len(open_images(DataConfig(source="scenes", num_images=3000), "val")) == 375
    assert images.image(0).size == (32, 32)
    assert not images.labels.any()
    assert list(images.classes) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("test", 10, (64, 64)), "no split 'test'; choose train or val"),
        (("train", 0, (64, 64)), "num_images must be at least 1"),
        (("train", 10, (8, 64)), r"size \(8, 64\) is too small; use at least 16 x 16"),
    ],
)
def test_mistakes_are_named(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Scenes(*arguments)
    with pytest.raises(UserError, match="seed of the shapes is -1; use 0 or more"):
        Scenes("train", 10, (64, 64), seed=-1)


def test_an_index_out_of_range_is_an_index_error():
    for index in (10, -1):
        with pytest.raises(IndexError, match=f"image {index} of 10"):
            Scenes("train", 10, (64, 64)).captions(index)
