"""Which captions a set of images is drawn from: the protocol, told once more by hand."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from MaskGIL.data.scenes import Scenes
from Metrics.caption_set import CaptionSet, open_caption_set
from Network.config import UserError

SIZE = (32, 48)
SEVERAL = [("a", "b", "c"), ("d",), ("e", "f"), ("g",)]


def opened(value, split="val", num_images=0, seed=0):
    return open_caption_set(str(value), split, num_images, seed, SIZE)


def test_every_entry_comes_once_then_equally_often():
    found = CaptionSet("name", "val", SEVERAL, 11, seed=3)
    assert sorted(found.rows[:4]) == [0, 1, 2, 3]
    assert np.array_equal(found.rows[4:8], found.rows[:4])
    assert sorted(Counter(found.rows.tolist()).values()) == [2, 3, 3, 3]
    assert all(text in SEVERAL[row] for text, row in zip(found.texts, found.rows))
    fewer = CaptionSet("name", "val", SEVERAL, 3, seed=3)
    assert fewer.texts == found.texts[:3]  # more images never change the first ones


def test_order_and_captions_follow_from_the_seed():
    captions = [(f"{row} a", f"{row} b") for row in range(50)]
    one, same, other = (CaptionSet("", "val", captions, 50, seed=seed) for seed in (0, 0, 1))
    assert one.texts == same.texts
    assert one.rows.tolist() != other.rows.tolist()
    assert sorted(one.rows) == list(range(50)) != one.rows.tolist()
    last = Counter(text[-1] for text in one.texts)
    assert 12 < last["a"] < 38  # 50 fair coins, to 3.7 deviations


def test_a_record_tells_what_was_drawn():
    found = CaptionSet("name", "val", SEVERAL, 3, seed=3)
    facts = found.facts()
    assert facts["sha256"] == hashlib.sha256("\0".join(found.texts).encode()).hexdigest()
    assert (facts["name"], facts["split"], facts["entries"]) == ("name", "val", 4)


def test_captions_of_drawn_scenes_are_those_of_the_data_set():
    found = opened("scenes:20")
    scenes = Scenes("val", 20, SIZE)
    assert len(found) == found.num_entries == 20
    assert all(text in scenes.captions(row) for text, row in zip(found.texts, found.rows))
    assert found.scenes.shapes == (SIZE,)
    assert all(found.scenes.description(row).is_held_out for row in range(20))
    assert not any(opened("scenes:20", "train").scenes.description(row).is_held_out for row in (0,))
    assert (len(opened("scenes:5", num_images=7)), opened("shapes:5").scenes) == (7, None)


def test_captions_of_a_folder(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        (tmp_path / split).mkdir()
        for number in range(count):
            Image.new("RGB", (9, 9)).save(tmp_path / split / f"{number}.png")
            (tmp_path / split / f"{number}.txt").write_text(f"{split} {number}\n{split} again")
    found = opened(tmp_path)
    assert len(found) == 2
    assert {text.split()[0] for text in found.texts} == {"val"}
    assert len(opened(tmp_path, "train")) == 3
    (tmp_path / "val/0.txt").unlink()
    with pytest.raises(UserError, match=r"^1 picture has no caption: val/0\.png; add the captions"):
        opened(tmp_path)
    for text in tmp_path.glob("*/*.txt"):
        text.unlink()
    with pytest.raises(UserError, match=rf"^captions={tmp_path} has no captions; put NAME\.txt"):
        opened(tmp_path)


def test_captions_of_coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2014").mkdir()
    images, annotations = [], []
    for number in range(3):
        file = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (9, 9)).save(tmp_path / "val2014" / file)
        images.append({"id": number, "file_name": file})
        annotations += [
            {"id": 9 * number + k, "image_id": number, "caption": f"{number} {k}"} for k in range(5)
        ]
    table = {"images": images, "annotations": annotations}
    (tmp_path / "annotations/captions_val2014.json").write_text(json.dumps(table))
    found = opened(tmp_path)
    assert [int(text.split()[0]) for text in found.texts] == found.rows.tolist()


def test_a_file_of_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n\nthree\n")
    found = opened(file, num_images=6)
    assert Counter(found.texts) == {"one": 2, "two": 2, "three": 2}
    assert found.facts()["split"] is None
    with pytest.raises(UserError, match=r"^captions_split has no effect on captions="):
        opened(file, "train")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("nowhere", "No such captions: captions=nowhere; give scenes, scenes:COUNT, a folder"),
        ("scenes:many", "captions=scenes:many needs a number of images behind the colon: scenes:"),
    ],
)
def test_mistakes(value, sentence):
    with pytest.raises(UserError) as error:
        opened(value)
    assert str(error.value).startswith(sentence)
