import re

import numpy as np
import pytest

from MaskGIL.data.shapes import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    SHAPES,
    Background,
    Object,
    Scene,
    Shapes,
    caption,
    draw,
)
from Network.config import UserError

GREY = Background("plain", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def test_classes_and_even_labels():
    shapes = Shapes("train", 1000, (64, 64))
    assert len(set(shapes.classes)) == 16
    assert shapes.classes[0] == "red circle"
    assert shapes.labels.dtype == np.int64
    assert len(shapes) == 1000
    for start in range(0, 992, 16):
        assert sorted(shapes.labels[start : start + 16]) == list(range(16))
    assert not np.array_equal(shapes.labels[:16], shapes.labels[16:32])


@pytest.mark.parametrize("max_objects", [1, 3])
def test_label_is_the_first_and_largest_object(max_objects):
    shapes = Shapes("val", 200, (64, 64), max_objects)
    for index in range(200):
        first, *others = shapes.scene(index).objects
        assert shapes.classes[shapes.labels[index]] == f"{first.colour} {first.shape}"
        assert all(other.size < first.size for other in others)
    numbers = {len(shapes.scene(index).objects) for index in range(200)}
    assert numbers == set(range(1, max_objects + 1))


def test_same_key_same_picture_whatever_was_drawn_before():
    few, many = Shapes("train", 20, (64, 64), seed=3), Shapes("train", 5000, (64, 64), seed=3)
    many.image(4000)
    assert np.array_equal(few.labels, many.labels[:20])
    assert few.scene(7) == many.scene(7)
    assert np.array_equal(np.asarray(few.image(7)), np.asarray(many.image(7)))
    state = np.random.get_state()[1].copy()  # noqa: NPY002  the global state must stay untouched
    few.image(0)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_splits_and_seeds_share_no_scene():
    sets = [Shapes("train", 300, (64, 64)), Shapes("val", 300, (64, 64))]
    sets.append(Shapes("train", 300, (64, 64), seed=1))
    scenes = [shapes.scene(index) for shapes in sets for index in range(300)]
    assert len({scene.objects for scene in scenes}) == 900


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (120, 40)])
def test_objects_are_inside_and_apart(size):
    shapes = Shapes("train", 150, size, 3)
    sides = np.array(size) / min(size)
    for index in range(150):
        objects = shapes.scene(index).objects
        centres = np.array([(item.row, item.column) for item in objects]) * sides
        reach = np.array([item.size * SHAPES[item.shape].reach for item in objects])
        assert (centres - reach[:, None] > 0).all()
        assert (centres + reach[:, None] < sides).all()
        for i, j in zip(*np.triu_indices(len(objects), 1)):
            assert np.linalg.norm(centres[i] - centres[j]) > reach[i] + reach[j]
    assert np.asarray(shapes.image(0)).shape == (*size, 3)
    assert shapes.image(0).mode == "RGB"


def test_places_and_sizes_fit_the_grid_of_tokens():
    for max_objects in (1, 3):
        shapes = Shapes("train", 200, (64, 64), max_objects)
        scenes = [shapes.scene(index).objects for index in range(200)]
        for item in (item for objects in scenes for item in objects):
            assert (item.row * 8).is_integer()
            assert (item.column * 8).is_integer()
            assert (item.size * 16).is_integer()
        single = [objects[0] for objects in scenes if len(objects) == 1]
        assert {item.row for item in single} == {item.column for item in single}
        assert {item.row for item in single} == {0.375, 0.5, 0.625}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_drawing_has_the_centre_and_size_of_its_object(shape):
    white = (1.0, 1.0, 1.0)
    picture = draw(Scene((Object(shape, "red", 0.4, 0.6, 0.3, white),), GREY), 200, 300)
    cover = (picture[:, :, 0].astype(float) - 128) / 127
    row, column = np.average(np.indices((200, 300)) + 0.5, axis=(1, 2), weights=[cover, cover])
    assert abs(row / 200 - 0.4) < 0.01
    assert abs(column / 300 - 0.6) < 0.01
    widest = (cover > 0.5).any(axis=0).sum() / 200  # the diameter is a part of the short side
    assert 0.8 * 0.3 < widest < 1.2 * 0.3
    holed = cover[80, 180] < 0.5
    assert holed == (shape == "ring")


def test_edges_are_antialiased_and_the_table_paints():
    picture = draw(Scene((Object("circle", "blue", 0.5, 0.5, 0.5),), GREY), 64, 64)
    inside, outside = picture[32, 32], picture[2, 2]
    assert inside[2] > 200 > 100 > inside[0]
    assert tuple(outside) == (128, 128, 128)
    mixed = (picture != inside).any(-1) & (picture != outside).any(-1)
    assert 60 < mixed.sum() < 200  # about the 100 pixels that a circle of diameter 32 cuts


def test_backgrounds_are_muted_and_colours_vary_within_a_name():
    shapes = Shapes("train", 400, (64, 64))
    scenes = [shapes.scene(index) for index in range(400)]
    assert {scene.background.kind for scene in scenes} == set(BACKGROUNDS)
    ends = np.array([scene.background.colours for scene in scenes])  # (400, 2, 3)
    assert np.ptp(ends, axis=-1).max() < 0.25
    assert np.abs(ends[:, 0] - ends[:, 1]).max() < 0.25
    for colour in COLOURS:
        paints = np.array([s.objects[0].rgb for s in scenes if s.objects[0].colour == colour])
        assert np.ptp(paints, axis=1).min() > 0.3
        assert paints.std(axis=0).max() > 0.05


def test_captions():
    scene = Scene(
        (Object("circle", "red", 0.2, 0.2, 0.3), Object("ring", "blue", 0.5, 0.5, 0.2)), GREY
    )
    assert caption(scene) == (
        "a red circle at the top left and a blue ring in the centre on a plain background"
    )
    shapes = Shapes("val", 50, (64, 64), 3)
    for index in range(50):
        (sentence,) = shapes.captions(index)
        said = re.findall(r"a (\w+ \w+) (?:at|on|in) the", sentence)
        objects = shapes.scene(index).objects
        assert said[: len(objects)] == [f"{item.colour} {item.shape}" for item in objects]
        assert sentence.count(" and ") == len(objects) - 1
    assert set(CLASSES) == {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("test", 10, (64, 64)), "no split 'test'; choose train or val"),
        (("train", 0, (64, 64)), "num_images must be at least 1"),
        (("train", 10, (8, 64)), r"size \(8, 64\) is too small; use at least 16 x 16"),
        (("train", 10, (64, 64), 4), "max_objects is 4; a shapes picture holds 1 to 3"),
        (("train", 10, (64, 64), 1, -1), "seed of the shapes is -1; use 0 or more"),
    ],
)
def test_mistakes_are_named(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Shapes(*arguments)


def test_an_index_out_of_range_is_an_index_error():
    shapes = Shapes("train", 10, (64, 64))
    for index in (10, -1):
        with pytest.raises(IndexError, match=f"image {index} of 10"):
            shapes.scene(index)
