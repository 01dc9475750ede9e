import json
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.data.buckets import BucketOrder, fill_buckets
from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import UnreadableImage, read_shape
from MaskGIL.data.scenes import Scenes
from MaskGIL.data.shapes import Shapes
from Network.config import UserError

SHAPES = [(32, 32), (32, 48), (48, 32)]


def photos(folder, *sizes):
    """Files of pictures of so many pixels, height x width."""
    for number, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(len(sizes))]
    return Files(folder, "train", names, np.zeros(len(sizes), np.int64), [])


def test_pictures_go_to_their_buckets_and_that_is_remembered(tmp_path, monkeypatch):
    images = photos(tmp_path, (30, 30), (60, 90), (90, 60), (31, 30), (40, 90))
    memory = tmp_path / "cache" / "buckets.json"
    buckets = fill_buckets(images, SHAPES, memory, "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0, 3], [1, 4], [2]]
    assert [bucket.shape for bucket in buckets] == SHAPES
    assert [bucket.name(0) for bucket in buckets] == [f"train/{n}.png" for n in (0, 1, 2)]
    assert [len(buckets[1]), buckets[1].image(1).size, buckets[1].labels.tolist()] == [
        2, (90, 40), [0, 0],
    ]  # fmt: skip
    monkeypatch.setattr(Files, "shape", None)  # nothing is measured twice
    again = fill_buckets(images, SHAPES, memory, "train")
    assert [bucket.rows.tolist() for bucket in again] == [[0, 3], [1, 4], [2]]


def test_many_readers_leave_warnings_as_they_were(tmp_path):
    before = list(warnings.filters)
    images = photos(tmp_path, *[(30, 30), (60, 90), (90, 60)] * 20)
    fill_buckets(images, SHAPES, tmp_path / "buckets.json", "train")
    assert list(warnings.filters) == before


def test_other_pictures_or_shapes_are_measured_anew(tmp_path):
    images = photos(tmp_path, (30, 30), (60, 90), (90, 60), (31, 30))
    memory = tmp_path / "buckets.json"
    fill_buckets(images, SHAPES, memory, "train")
    (two, wide) = fill_buckets(images, SHAPES[:2], memory, "train")
    assert [two.rows.tolist(), wide.rows.tolist()] == [[0, 2, 3], [1]]
    fewer = Files(tmp_path, "train", ["0.png", "1.png"], np.zeros(2, np.int64), [])
    assert [len(bucket) for bucket in fill_buckets(fewer, SHAPES[:2], memory, "train")] == [1, 1]
    assert len(json.loads(memory.read_text())["numbers"]) == 2


def test_a_bucket_that_stays_empty_is_named(tmp_path):
    images = photos(tmp_path, (30, 30))
    with pytest.raises(
        UserError, match=r"^No picture of train goes to data.buckets=32x48,48x32: others are nea"
    ):
        fill_buckets(images, SHAPES, tmp_path / "buckets.json", "train")


def test_a_bucket_may_be_empty_in_val(tmp_path):
    images = photos(tmp_path, (30, 30), (90, 60))
    buckets = fill_buckets(images, SHAPES, tmp_path / "buckets.json", "val")
    assert [bucket.shape for bucket in buckets] == [(32, 32), (48, 32)]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "null"])
def test_a_damaged_memory_is_written_anew(tmp_path, damage):
    images, memory = photos(tmp_path, (30, 30), (60, 90)), tmp_path / "buckets.json"
    fill_buckets(images, SHAPES[:2], memory, "train")
    whole = memory.read_bytes()
    memory.write_text(damage)
    buckets = fill_buckets(images, SHAPES[:2], memory, "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0], [1]]
    assert memory.read_bytes() == whole


def test_an_unreadable_picture_is_left_to_whoever_reads_it(tmp_path):
    images = photos(tmp_path, (30, 30), (60, 90), (90, 60))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage):
        images.shape(1)
    buckets = fill_buckets(images, [SHAPES[0], SHAPES[2]], tmp_path / "buckets.json", "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0, 1], [2]]


def test_sources_of_one_shape_have_no_buckets(tmp_path):
    with pytest.raises(UserError, match=r"^data.buckets needs pictures of many shapes, those of"):
        fill_buckets(Shapes("train", 4, (32, 32)), SHAPES, tmp_path / "buckets.json", "train")


def test_a_shape_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 10)).save(tmp_path / "plain.jpg")
    assert read_shape(tmp_path / "turned.jpg") == (20, 10)
    assert read_shape(tmp_path / "plain.jpg") == (10, 20)


def test_scenes_have_their_shapes_in_turn(tmp_path):
    scenes, alone = Scenes("train", 7, *SHAPES), Scenes("train", 7, SHAPES[1])
    buckets = fill_buckets(scenes, SHAPES, tmp_path / "buckets.json", "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [bucket.image(0).size[::-1] for bucket in buckets] == SHAPES
    assert scenes.image(4).tobytes() == alone.image(4).tobytes()
    assert scenes.captions(4) == alone.captions(4)


def test_squares_of_two_sizes_in_one_run(tmp_path):
    shapes, memory = [(32, 32), (48, 48), (32, 48)], tmp_path / "buckets.json"
    images = photos(tmp_path, (47, 50), (48, 50), (90, 90), (40, 60), (10, 10))
    buckets = fill_buckets(images, shapes, memory, "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0, 4], [1, 2], [3]]
    scenes = Scenes("train", 6, *shapes)
    buckets = fill_buckets(scenes, shapes, memory, "train")
    assert [bucket.rows.tolist() for bucket in buckets] == [[0, 3], [1, 4], [2, 5]]


def test_an_epoch_has_each_bucket_in_its_share_and_in_another_order():
    order = BucketOrder([100, 60, 3], batch=10, seed=1)
    assert order.steps.tolist() == [10, 6, 1]
    assert order.shares.tolist() == pytest.approx([10 / 17, 6 / 17, 1 / 17])
    epochs = [[order(17 * epoch + place) for place in range(17)] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert Counter(bucket for bucket, _ in epoch) == {0: 10, 1: 6, 2: 1}
        for bucket, steps in enumerate(order.steps):
            mine = [count for turn, count in epoch if turn == bucket]
            assert mine == [*range(number * steps, (number + 1) * steps)]
    assert len({tuple(bucket for bucket, _ in epoch) for epoch in epochs}) == 3


def test_the_order_follows_from_seed_and_step_alone():
    def turns(seed, steps):
        order = BucketOrder([50, 50], batch=10, seed=seed)
        return [order(step) for step in steps]

    assert turns(1, range(40))[::-1] == turns(1, reversed(range(40)))
    assert turns(1, range(40)) != turns(2, range(40))
    assert BucketOrder([50], batch=10, seed=1)(12345) == (0, 12345)
    state = torch.random.get_rng_state()
    turns(3, range(4))
    assert torch.equal(torch.random.get_rng_state(), state)
