"""Large JPEGs decoded smaller (data.draft): in every layout, hardly another crop, another cache."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tokenizer

from MaskGIL.cache import write_cache
from MaskGIL.config import DataConfig
from MaskGIL.data import open_images
from MaskGIL.data.crops import CROPS, crop_image, least_side
from MaskGIL.data.folders import BadFiles, read_image
from Metrics.reference import open_image_set
from Network.config import UserError

SIDE = 32


def picture(width, height, kind="JPEG"):
    coarse = np.random.default_rng(0).integers(256, size=(12, 16, 3), dtype=np.uint8)
    data = io.BytesIO()
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    smooth.save(data, kind)
    return data.getvalue()


def write_folder(root, data):
    for split in ("train", "val"):
        (root / split / "cat").mkdir(parents=True)
        (root / split / "cat" / "a.jpg").write_bytes(data)


def write_pictures(root, data):
    root.mkdir()
    for number in range(3):
        (root / f"{number}.jpg").write_bytes(data)


def write_tars(root, data):
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            member = tarfile.TarInfo("cat/a.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def config(root, draft=True, crops="center"):
    path = str(root)
    return DataConfig(source="folder", path=path, image_size=SIDE, crops=crops, draft=draft)


@pytest.mark.parametrize("layout", [write_folder, write_pictures, write_tars])
def test_every_layout_decodes_large_jpegs_smaller_where_asked(layout, tmp_path):
    layout(tmp_path / "images", picture(600, 400))
    for split in ("train", "val"):
        whole = open_images(config(tmp_path / "images", draft=False), split).image(0)
        small = open_images(config(tmp_path / "images"), split).image(0)
        assert (whole.size, small.size) == ((600, 400), (150, 100))  # 100 is not below 64
        one, other = (crop_image(image, "center", 0, SIDE).int() for image in (whole, small))
        assert not torch.equal(one, other)
        assert (one - other).abs().float().mean() < 1.5  # grey levels


@pytest.mark.parametrize("crops", CROPS)
def test_what_is_left_is_halved_once_more(crops):
    side = least_side(crops, SIDE)
    assert side == 2 * int(SIDE * CROPS[crops].scale)
    for width, left in ((2 * side, side), (2 * side - 1, 2 * side - 1), (4 * side, side)):
        data = io.BytesIO(picture(width, 5 * side))
        assert read_image(data, draft=side).width == left


def test_small_and_other_pictures_stay_as_they_are():
    for data in (picture(120, 100), picture(600, 400, "PNG"), picture(600, 400, "WEBP")):
        one, other = (read_image(io.BytesIO(data), draft=draft) for draft in (0, 2 * SIDE))
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_reference_is_never_decoded_smaller(tmp_path):
    write_folder(tmp_path / "images", picture(600, 400))
    (found,) = open_image_set("reference", str(tmp_path / "images"), "val", (SIDE, SIDE))
    image = Image.open(io.BytesIO(picture(600, 400)))
    assert torch.equal(found[0], crop_image(image, "center", 0, SIDE))


def test_a_cache_is_of_one_way_of_decoding(tmp_path):
    write_folder(tmp_path / "images", picture(600, 400))

    def cache(draft):
        images = open_images(config(tmp_path / "images", draft), "train")
        bad = BadFiles(tmp_path / "bad.txt", 1, 0)
        model = tokenizer()
        write_cache(tmp_path / "cache", images, model, crops="center", image_size=SIDE, bad=bad)

    cache(draft=False)
    with pytest.raises(UserError, match="transform: draft is None there and 64 here"):
        cache(draft=True)
