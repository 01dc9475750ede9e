import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.data.crops import crop_image
from MaskGIL.data.scenes import Scenes
from MaskGIL.data.shapes import CLASSES, Shapes
from Metrics import reference, statistics_file
from Metrics.reference import CROP, open_image_set, open_reference, reference_facts
from Metrics.statistics_file import About, StatisticsFile, moments_sha256, write_statistics
from Network.config import UserError

SIZE = (16, 16)


def opened(value, split="val", count=0, size=SIZE):
    return open_image_set("reference", str(value), split, size, count)


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24), colour).save(path)


@pytest.fixture
def folder(tmp_path):
    for split, each in (("train", 3), ("val", 2)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(each):
                save(tmp_path / f"{split}/{name}/{number}.png", (100 * label, 10 * number, each))
    return tmp_path


def test_shapes_are_those_of_the_data_set():
    images = opened("shapes:20")
    assert (images.name, len(images), images.classes) == ("shapes (val)", 20, CLASSES)
    drawn = Shapes("val", 20, SIZE)
    expected = torch.stack([crop_image(drawn.image(i), "center", 0, 16) for i in range(20)])
    assert torch.equal(torch.cat(list(images)), expected)
    assert np.array_equal(images.labels, drawn.labels)
    assert not torch.equal(torch.cat(list(opened("shapes:20", "train"))), expected)


def test_plain_shapes_are_as_many_as_a_run_has():
    assert (len(opened("shapes")), len(opened("shapes", "train"))) == (2048, 16384)  # DataConfig


def test_scenes_are_those_of_the_data_set_and_of_no_class():
    images = opened("scenes:20")
    assert (images.name, len(images), images.classes) == ("scenes (val)", 20, ())
    assert images.labels.tolist() == [-1] * 20
    expected = np.stack([np.asarray(Scenes("val", 20, SIZE).image(row)) for row in range(20)])
    assert np.array_equal(torch.cat(list(images)).permute(0, 2, 3, 1).numpy(), expected)
    with pytest.raises(UserError, match=r"images behind the colon: scenes:4096\.$"):
        opened("scenes:")


def test_folder_with_splits(folder):
    images = opened(folder)
    assert (len(images), list(images.classes), images.labels.tolist()) == (
        4,
        ["ant", "bee"],
        [0, 0, 1, 1],
    )
    (batch,) = images
    assert (batch.shape, batch.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert batch[:, :, 8, 8].tolist() == [[0, 0, 2], [0, 10, 2], [100, 0, 2], [100, 10, 2]]
    assert len(opened(folder, "train")) == 6


def test_fewer_images_are_spread_evenly(folder):
    images = opened(folder, "train", count=2)
    assert images.labels.tolist() == [0, 1]  # the first and the last
    with pytest.raises(UserError, match=r"reference has 4 images, not 5; lower num_reference\."):
        opened(folder, count=5)


def test_folder_of_files_has_no_labels(folder):
    images = opened(folder / "val/bee")
    assert (images.labels.tolist(), list(images.classes)) == ([-1, -1], [])
    (batch,) = images
    assert batch[:, :, 0, 0].tolist() == [[100, 0, 2], [100, 10, 2]]


def test_samples(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", pixels, np.arange(9))
    images = opened(tmp_path / "a.npz", count=3)
    assert images.labels.tolist() == [0, 4, 8]
    assert torch.equal(torch.cat(list(images)), torch.from_numpy(pixels[::4]).permute(0, 3, 1, 2))
    with pytest.raises(UserError, match="holds images of 16x16, the samples have 32x32"):
        opened(tmp_path / "a.npz", size=(32, 32))


def test_mistakes(folder, tmp_path):
    def sentence(value, **options):
        with pytest.raises(UserError) as error:
            opened(value, **options)
        return str(error.value)

    assert sentence("nowhere").startswith("No such reference: reference=nowhere; give shapes, ")
    assert "needs a number of images behind the colon" in sentence("shapes:many")
    assert "needs a number of images behind the colon" in sentence("shapes:0")
    assert "use an .npz of 16x32" in sentence("shapes", size=(16, 32))
    (tmp_path / "empty").mkdir()
    assert sentence(tmp_path / "empty").endswith("empty holds neither val/CLASS/* nor images.")
    (folder / "val/bee/9.png").write_text("broken")
    with pytest.raises(UserError) as error:
        list(opened(folder))  # one of five is too many
    start, end = str(error.value).split("val/bee/9.png among them (not an image")
    assert start == f"1 of 5 images of {folder} cannot be read, "
    assert end.endswith("); mend or remove them.")


def test_the_neighbour_of_an_unreadable_file_stands_in_if_they_are_few(folder, monkeypatch):
    monkeypatch.setattr(reference, "MOST_UNREADABLE", 0.5)
    (folder / "val/ant/1.png").write_text("broken")
    (folder / "val/bee/1.png").write_text("broken")  # the last: the first comes next
    images = opened(folder)
    (batch,) = images
    assert batch[:, 0, 8, 8].tolist() == [0, 100, 100, 0]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert list(images.unreadable) == ["val/ant/1.png", "val/bee/1.png"]
    list(images)  # another pass counts none twice
    assert len(images.unreadable) == 2


def test_a_part_is_spread_evenly(folder, tmp_path):
    assert opened(folder, "train").part(2).labels.tolist() == [0, 1]
    assert len(opened(folder).part(99)) == 4
    pixels = np.arange(9 * 16 * 16 * 3).reshape(9, 16, 16, 3).astype(np.uint8)
    np.savez(tmp_path / "a.npz", pixels, np.arange(9))
    part = opened(tmp_path / "a.npz", count=5).part(3)
    assert part.labels.tolist() == [0, 4, 8]
    assert torch.equal(next(iter(part)), torch.from_numpy(pixels[::4]).permute(0, 3, 1, 2))


def test_bare_pictures_are_split_as_a_run_splits_them_if_asked(tmp_path):
    for number in range(40):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    key = ("reference", str(tmp_path))
    assert len(open_image_set(*key, "val", SIZE)) == 40
    parts = [open_image_set(*key, split, SIZE, whole=False) for split in ("train", "val")]
    reds = [set(torch.cat(list(part))[:, 0, 8, 8].tolist()) for part in parts]
    assert reds[0].isdisjoint(reds[1])
    assert reds[0] | reds[1] == set(range(40))
    assert len(parts[1]) < 10
    assert set(parts[0].labels) == {-1}


# --------------------------------------------------------------------------------- references
def statistics(path, split="val", size=SIZE):
    about = About({"shapesnet-1": "ab"}, "pictures", 9, "cd", size, CROP, split)
    write_statistics(path, about, {"labels": np.arange(9)})
    return str(path)


def refused(function, *words, **options):
    with pytest.raises(UserError) as error:
        function(*words, **options)
    return str(error.value)


def test_statistics_are_a_reference_and_no_images(tmp_path):
    file = statistics(tmp_path / "a.npz")
    reference = open_reference(file, "val", SIZE)
    assert isinstance(reference, StatisticsFile)
    assert (len(reference), reference.labels.tolist()) == (9, list(range(9)))
    assert refused(open_reference, file, "val", SIZE, 5) == (
        f"num_reference chooses images, and reference={file} has none; leave it out."
    )
    assert "has statistics of images of 16x16, the samples have 8x8; make them of images" in (
        refused(open_reference, file, "val", (8, 8))
    )
    assert refused(open_image_set, "train", file, "train", SIZE) == (
        f"train={file} has statistics and no images, which are needed here; name the images."
    )
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    assert "b.npz is no " in refused(open_reference, str(tmp_path / "b.npz"), "val", SIZE)


def test_train_and_val_are_never_confused(folder, tmp_path):
    both = str(folder)
    assert [len(open_reference(both, split, SIZE)) for split in ("train", "val")] == [6, 4]
    assert open_reference("shapes:4", "train", SIZE).split == "train"
    save(tmp_path / "bare/train/0.png", (0, 0, 0))  # whose name tells
    for value in (str(tmp_path / "bare/train"), statistics(tmp_path / "train.npz", "train")):
        assert refused(open_reference, value, "val", SIZE) == (
            f"reference={value} is of train and not of val; say reference_split=train if that is "
            "meant, or name another reference."
        )
        assert open_reference(value, "train", SIZE).split == "train"
    val = statistics(tmp_path / "val.npz")
    assert "is of val and not of train; say ref" in refused(open_reference, val, "train", SIZE)


def test_what_does_not_tell_its_split_is_of_train_where_the_command_says_so(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(statistics_file, "WIDTH", 3)
    np.savez(tmp_path / "images.npz", np.zeros((3, *SIZE, 3), np.uint8))
    np.savez(tmp_path / "adm.npz", mu=np.zeros(3), sigma=np.eye(3))
    for value in ("images.npz", "adm.npz", "val/bee"):
        for split, told in (("val", None), ("train", "train")):
            found = open_reference(str(tmp_path / value), split, SIZE)
            is_file = isinstance(found, StatisticsFile)
            facts = found.facts() if is_file else reference_facts(found, "ab")
            assert facts["split"] == told


def test_only_the_split_that_is_asked_for_need_be_there(folder):
    shutil.rmtree(folder / "train")
    images = opened(folder)
    assert (list(images.classes), images.labels.tolist()) == (["ant", "bee"], [0, 0, 1, 1])
    assert refused(opened, folder, "train") == (
        f"reference={folder} holds neither train/CLASS/* nor images."
    )


def test_a_split_of_a_folder_is_not_the_folder(folder):
    assert refused(opened, folder / "val") == (
        f"reference={folder}/val is a split of a folder; use reference={folder}."
    )
    assert refused(opened, folder / "train") == (
        f"reference={folder}/train is a split of a folder; use reference={folder} "
        "reference_split=train."
    )


def test_a_record_tells_where_images_come_from(folder, tmp_path):
    facts = reference_facts(opened(folder), "ab")
    assert facts == {
        "name": str(folder),
        "sha256": "ab",
        "count": 4,
        "split": "val",
        "transform": CROP,
        "image_size": [16, 16],
        "unreadable": {},
    }
    pixels = np.zeros((3, *SIZE, 3), np.uint8)
    np.savez(tmp_path / "plain.npz", pixels)
    plain = reference_facts(opened(tmp_path / "plain.npz"), "ab")
    assert (plain["split"], plain["transform"]) == (None, "as they are in the file")
    np.savez(tmp_path / "adm.npz", arr_0=pixels, mu=np.zeros(3), sigma=np.eye(3))
    adm = reference_facts(opened(tmp_path / "adm.npz"), "ab")
    assert adm.pop("statistics_sha256") == moments_sha256(tmp_path / "adm.npz")
    assert adm == {**plain, "name": str(tmp_path / "adm.npz")}
