import json

import pytest
from PIL import Image

from MaskGIL.data.captions import folder_captions
from MaskGIL.data.coco import coco_file, is_coco, read_coco
from MaskGIL.data.layouts import open_layout
from Network.config import UserError

# In the manner of captions_val2017.json: annotations follow no order
ANNOTATIONS = {
    "info": {"year": 2017},
    "images": [
        {"id": 139, "file_name": "000000000139.jpg", "height": 4, "width": 4},
        {"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 4},
    ],
    "annotations": [
        {"image_id": 139, "id": 70, "caption": "A woman in a room. "},
        {"image_id": 9, "id": 5, "caption": "A tray\nof food."},
        {"image_id": 139, "id": 8, "caption": "Two people."},
    ],
}


def write(root, split, content=ANNOTATIONS, year="2017", files=None):
    (root / f"{split}{year}").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for file in files or [image["file_name"] for image in content["images"]]:
        Image.new("RGB", (4, 4)).save(root / f"{split}{year}" / file)
    path = root / "annotations" / f"captions_{split}{year}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "coco", split)
    return tmp_path / "coco"


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_and_their_captions(root, split):
    images = open_layout(root, split)
    names = [f"{split}/000000000009.jpg", f"{split}/000000000139.jpg"]
    assert [images.name(row) for row in range(len(images))] == names
    assert list(images.classes) == []
    assert images.labels.tolist() == [0, 0]
    table = folder_captions(root, split, images)
    assert [table[row] for row in range(2)] == [
        ("A tray of food.",),
        ("Two people.", "A woman in a room."),
    ]


def test_a_picture_without_caption_and_the_reverse(root):
    path = coco_file(root, "val")
    Image.new("RGB", (4, 4)).save(root / "val2017" / "extra.jpg")
    with pytest.raises(UserError, match=r"^1 picture has no caption: val/extra.jpg; add the"):
        folder_captions(root, "val", open_layout(root, "val"))
    (root / "val2017" / "extra.jpg").unlink()
    (root / "val2017" / "000000000139.jpg").unlink()
    sentence = rf"^1 caption has no picture: 000000000139.jpg in {path}; add the pictures or rem"
    with pytest.raises(UserError, match=sentence):
        folder_captions(root, "val", open_layout(root, "val"))


def test_years(root):
    assert is_coco(root)
    write(root, "val", year="2014")
    with pytest.raises(UserError, match=r"for one year, and has of 2014 and 2017, keep one\.$"):
        open_layout(root, "val")
    open_layout(root, "train")
    coco_file(root, "train").unlink()
    with pytest.raises(UserError, match=r"captions_trainYEAR.json and .* has none; add them"):
        open_layout(root, "train")
    assert not is_coco(root.parent)


@pytest.mark.parametrize(
    "content",
    [
        "<html>",
        "[" * 50_000,
        "[]",
        "{}",
        '{"images": [], "annotations": [{"image_id": 1, "id": 1}]}',
    ],
)
def test_damage(root, content):
    path = coco_file(root, "val")
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path} has not the captions of COCO \(.*\); download"):
        read_coco(path)
