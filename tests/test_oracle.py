import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from MaskGIL.data.scenes import Scenes
from MaskGIL.data.shapes import CLASSES, SHAPES, Background, Object, Scene, Shapes, draw
from Metrics.oracle import (
    attributes,
    classify,
    read_grounds,
    read_objects,
    relation_of,
    spread_ratio,
)

NUM = 256


def pictures(shapes):
    return np.stack([np.asarray(shapes.image(index)) for index in range(len(shapes))])


def through_small(images, factor=3):
    def resized(image):
        small = image.resize((image.width // factor, image.height // factor), Image.BICUBIC)
        return np.asarray(small.resize(image.size, Image.BICUBIC))

    return np.stack([resized(Image.fromarray(image)) for image in images])


def noisy(images, deviation=8):
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise + 0.5, 0, 255).astype(np.uint8)


def shifted(images):
    return np.clip(images * [1.08, 0.95, 1.05] + [-8, 6, 4], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def unseen():
    shapes = Shapes("val", NUM, (64, 64), seed=5)
    return shapes, pictures(shapes)


@pytest.fixture(scope="module")
def several():
    shapes = Shapes("val", NUM, (64, 64), max_objects=3, seed=6)
    return shapes, pictures(shapes)


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (lambda images: images, 0.99),
        (lambda images: noisy(through_small(images)), 0.95),
        (lambda images: np.stack([ndimage.gaussian_filter(x, (2, 2, 0)) for x in images]), 0.95),
        (lambda images: noisy(images, 16), 0.95),
        (shifted, 0.95),
    ],
    ids=["drawn", "small and noisy", "blurred", "noisy", "colours shifted"],
)
def test_classes_are_read(unseen, damage, least):
    shapes, images = unseen
    assert (classify(damage(images)) == shapes.labels).mean() >= least


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (128, 128)])
def test_other_sizes_are_read(size):
    shapes = Shapes("val", 100, size, seed=7)
    assert (classify(pictures(shapes)) == shapes.labels).mean() >= 0.99


def test_shuffled_labels_are_matched_by_chance(unseen):
    shapes, images = unseen
    shuffled = np.random.default_rng(1).permutation(shapes.labels)
    right = (classify(images) == shuffled).mean()
    assert abs(right - 1 / 16) < 4 * np.sqrt(1 / 16 * 15 / 16 / NUM)  # four standard errors


@pytest.mark.parametrize(
    "damage", [lambda images: images, lambda images: noisy(through_small(images))]
)
def test_all_objects_of_a_scene_are_read(several, damage):
    shapes, images = several
    drawn = read = invented = 0
    for index, found in enumerate(read_objects(damage(images))):
        wanted = shapes.scene(index).objects
        matched = sum(any(_same(w, f) for f in found) for w in wanted)
        drawn, read, invented = drawn + len(wanted), read + matched, invented + len(found) - matched
    assert read / drawn >= 0.95
    assert invented / drawn <= 0.05


def _same(one, other):
    near = abs(one.row - other.row) < 0.04 and abs(one.column - other.column) < 0.04
    return near and (one.shape, one.colour) == (other.shape, other.colour)


def test_the_largest_object_gives_the_class(several):
    shapes, images = several
    assert (classify(images) == shapes.labels).mean() >= 0.99
    sizes = [[item.size for item in found] for found in read_objects(images)]
    assert all(size == sorted(size, reverse=True) for size in sizes)


def test_attributes_are_those_drawn(unseen):
    shapes, images = unseen
    main = [shapes.scene(index).objects[0] for index in range(NUM)]
    for seen, tolerance in ((attributes(images), 0.02), (attributes(noisy(images)), 0.03)):
        assert np.abs(seen.row - [item.row for item in main]).max() < tolerance
        assert np.abs(seen.column - [item.column for item in main]).max() < tolerance
        assert np.abs(seen.size - [item.size for item in main]).max() < 2 * tolerance
        assert np.abs(seen.rgb - [item.rgb for item in main]).max() < 2 * tolerance


def test_nothing_is_seen_where_nothing_is(unseen):
    kinds = {}
    for index in range(40):
        background = unseen[0].scene(index).background
        kinds[background.kind] = background
    empty = [draw(Scene((), background), 64, 64) for background in kinds.values()]
    empty += [np.full((64, 64, 3), colour, np.uint8) for colour in ((220, 30, 30), (0, 0, 0))]
    assert len(empty) == 6
    assert (classify(np.stack(empty)) == -1).all()
    assert np.isnan(attributes(np.stack(empty)).row).all()


def test_a_broken_picture_is_no_object(unseen):
    half = unseen[1].copy()
    half[:, ::16], half[:, 1::16], half[:, 2::16], half[:, 3::16] = 128, 128, 128, 128
    half[:, :, ::16], half[:, :, 1::16], half[:, :, 2::16], half[:, :, 3::16] = 128, 128, 128, 128
    assert (classify(half) == unseen[0].labels).mean() < 0.5  # cut in pieces by grey bars


def test_tensors_are_read_like_arrays(unseen):
    images = unseen[1][:8]
    assert np.array_equal(classify(torch.from_numpy(images)), classify(images))
    with pytest.raises(AssertionError):
        classify(images.astype(np.float32))


def test_spread_of_equal_sets_is_one_and_of_a_shrunken_set_its_factor():
    grey = Background("plain", ((0.6, 0.6, 0.6), (0.6, 0.6, 0.6)))
    random = np.random.default_rng(0)
    around = random.uniform(-1, 1, (16, 12, 6))
    middle = np.array([0.5, 0.5, 0.4, 0.85, 0.2, 0.2])

    def drawn(factor):
        width = np.array([0.15, 0.15, 0.06, 0.05, 0.05, 0.05])
        values = middle + factor * width * around[: len(SHAPES)]  # (shapes, 12, 6)
        images = [
            draw(Scene((Object(shape, "red", *v[:3], tuple(v[3:])),), grey), 96, 96)
            for shape, rows in zip(SHAPES, values)
            for v in rows
        ]
        return np.stack(images)

    labels = np.repeat([CLASSES.index(f"red {shape}") for shape in SHAPES], 12)
    wide, narrow = drawn(1.0), drawn(0.5)
    same = spread_ratio(wide, labels, wide, labels)
    assert same == pytest.approx({"position": 1, "size": 1, "colour": 1})
    half = spread_ratio(narrow, labels, wide, labels)
    assert half == pytest.approx({"position": 0.5, "size": 0.5, "colour": 0.5}, rel=0.1)
    one = np.repeat(wide[::12], 12, axis=0)  # one picture for each class
    collapsed = spread_ratio(one, labels, wide, labels)
    assert collapsed == pytest.approx({"position": 0, "size": 0, "colour": 0}, abs=1e-6)
    wrong = spread_ratio(wide, (labels + 1) % 16, wide, labels)
    assert all(np.isnan(value) for value in wrong.values())


@pytest.mark.parametrize(
    ("damage", "least"),
    [(lambda images: images, 0.99), (lambda images: noisy(through_small(images)), 0.95)],
    ids=["drawn", "small and noisy"],
)
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_backgrounds_are_read(damage, least, size):
    scenes = Scenes("val", 100, size, seed=5)
    wanted = np.array([scenes.description(index).ground for index in range(100)])
    assert (np.array(read_grounds(damage(pictures(scenes)))) == wanted).mean() >= least


def test_other_backgrounds_have_no_word():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    odd = [np.full((64, 64, 3), colour, np.uint8) for colour in ((128, 128, 128), (220, 30, 30))]
    assert read_grounds(np.stack([noise, *odd])) == ["", "", ""]


def at(*places):
    return [Object("ring", "red", row, column, 0.1) for row, column in places]


@pytest.mark.parametrize(
    ("first", "second", "size", "relation"),
    [
        (at((0.2, 0.5)), at((0.7, 0.6)), (64, 64), "above"),
        (at((0.7, 0.6)), at((0.2, 0.5)), (64, 64), "below"),
        (at((0.5, 0.2)), at((0.6, 0.7)), (64, 64), "left of"),
        (at((0.6, 0.7)), at((0.5, 0.2)), (64, 64), "right of"),
        (at((0.2, 0.2)), at((0.6, 0.5)), (64, 64), "above"),
        (at((0.2, 0.2)), at((0.6, 0.5)), (64, 128), "left of"),  # 25.6 pixels down, 38.4 across
        (at((0.2, 0.2), (0.2, 0.8)), at((0.7, 0.5)), (64, 64), "above"),
        (at((0.2, 0.2), (0.9, 0.2)), at((0.8, 0.2)), (64, 64), ""),  # one above, one below
    ],
)
def test_relations(first, second, size, relation):
    assert relation_of(first, second, *size) == relation
