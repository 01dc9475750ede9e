"""A miniature ImageNet in every layout that people have; the same token cache comes of all."""

import csv
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tiny
import torch
from PIL import Image

from MaskGIL.cache import finish_cache, write_cache
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.layouts import DEVKIT, KAGGLE, KAGGLE_LABELS, TARS, open_layout
from Network.config import UserError

IDS = ("n01440764", "n01443537", "n02085620")
TRAIN = [(wnid, f"{wnid}_{number}.JPEG") for wnid in IDS for number in (10026, 7, 99)]
VAL = [(IDS[number % 3], f"ILSVRC2012_val_{number:08d}.JPEG") for number in range(1, 8)]


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


PICTURES = {file: jpeg(seed) for seed, (_, file) in enumerate(TRAIN + VAL)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """What is remembered of tar files stays inside the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar_of(files):
    """A tar file of (name, bytes), as bytes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


# ------------------------------------------------------------------------------------ layouts
def class_folders(root):
    for split, files in (("train", TRAIN), ("val", VAL)):
        for wnid, file in files:
            write(root / split / wnid / file, PICTURES[file])


def kaggle(root):
    for wnid, file in TRAIN:
        write(root / KAGGLE / "train" / wnid / file, PICTURES[file])
    for _, file in VAL:
        write(root / KAGGLE / "val" / file, PICTURES[file])
    with (root / KAGGLE_LABELS).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "PredictionString"])
        table.writerows([Path(name).stem, f"{wnid} 1 2 3 4"] for wnid, name in reversed(VAL))


def official(root):
    inner = {
        wnid: tar_of((file, PICTURES[file]) for own, file in TRAIN if own == wnid) for wnid in IDS
    }
    write(root / TARS["train"], tar_of((f"{wnid}.tar", inner[wnid]) for wnid in reversed(IDS)))
    write(root / TARS["val"], tar_of((file, PICTURES[file]) for _, file in reversed(VAL)))
    numbers = {wnid: 3 - number for number, wnid in enumerate(IDS)}  # an order of their own
    kind = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")]
    synsets = np.array([(number, wnid, 0) for wnid, number in numbers.items()], kind)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    truth = "".join(f"{numbers[wnid]}\n" for wnid, _ in VAL).encode()
    with tarfile.open(root / DEVKIT, "w:gz") as archive:
        for name, data in (("meta.mat", meta.getvalue()),
                           ("ILSVRC2012_validation_ground_truth.txt", truth)):  # fmt: skip
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def shards(root):
    """Three samples a tar file, the number before the picture or behind it."""
    for split, files in (("train", TRAIN), ("validation", VAL)):
        files = [files[number] for number in np.random.default_rng(0).permutation(len(files))]
        for start in range(0, len(files), 3):
            members = []
            for wnid, file in files[start : start + 3]:
                label = (Path(file).stem + ".cls", str(IDS.index(wnid)).encode())
                members += [label, (Path(file).stem + ".jpg", PICTURES[file])][
                    :: 1 - 2 * (start % 2)
                ]
            write(root / f"imagenet-{split}-{start:04d}.tar", tar_of(members))


def shards_of_folders(root):
    for split, files in (("train", TRAIN), ("val", VAL)):
        members = [(f"{wnid}/{file}", PICTURES[file]) for wnid, file in files]
        write(root / split / "0.tar", tar_of([("notes.txt", b"-"), *members]))


LAYOUTS = [class_folders, kaggle, official, shards, shards_of_folders]


def cache_of(root, folder):
    """Every file of the token caches of both splits."""
    for split in ("train", "val"):
        images = open_layout(root, split)
        bad = BadFiles(folder / "bad_files.txt", len(images), 0)
        options = {"crops": "flip", "image_size": 8, "bad": bad}
        write_cache(folder / split, images, tiny.tokenizer(), **options)
        finish_cache(folder / split, images, bad)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_cache_byte_for_byte(tmp_path, layout):
    class_folders(tmp_path / "folders")
    layout(tmp_path / "other")
    expected = cache_of(tmp_path / "folders", tmp_path / "a")
    assert len(expected) == 6
    assert cache_of(tmp_path / "other", tmp_path / "b") == expected


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_names_labels_and_pictures(tmp_path, layout):
    layout(tmp_path / "data")
    for split, files in (("train", TRAIN), ("val", VAL)):
        images = pickle.loads(pickle.dumps(open_layout(tmp_path / "data", split)))
        assert list(images.classes) == list(IDS)
        assert images.labels.dtype == np.int64
        for row, (wnid, file) in enumerate(sorted(files)):
            assert Path(images.name(row)).with_suffix("") == Path(split, wnid, file).with_suffix("")
            assert images.labels[row] == IDS.index(wnid)
            expected = np.asarray(Image.open(io.BytesIO(PICTURES[file])))
            assert np.array_equal(np.asarray(images.image(row)), expected)


def test_kaggle_may_be_given_from_inside(tmp_path):
    kaggle(tmp_path)
    assert len(open_layout(tmp_path / KAGGLE, "val")) == len(VAL)


# ------------------------------------------------------------------- folders without classes
def test_a_folder_without_classes_splits_itself(tmp_path):
    for number in range(60):
        write(tmp_path / "deep" / f"{number}.jpg" if number % 2 else tmp_path / f"{number}.jpg",
              jpeg(number))  # fmt: skip
    train, val = (open_layout(tmp_path, split) for split in ("train", "val"))
    assert (train.classes, set(train.labels)) == ([], {0})
    assert 0 < len(val) < 10
    names = [{images.name(row).partition("/")[2] for row in range(len(images))}
             for images in (train, val)]  # fmt: skip
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 60
    (tmp_path / "60.jpg").write_bytes(b"")  # one more moves no other
    more = open_layout(tmp_path, "val")
    assert names[1] <= {more.name(row).partition("/")[2] for row in range(len(more))}
    sources = (more, open_layout(tmp_path, "train"))
    names = [(images, row) for images in sources for row in range(len(images))]
    images, row = next(place for place in names if place[0].name(place[1]).endswith("/60.jpg"))
    with pytest.raises(UnreadableImage, match=r"^cannot read (train|val)/60.jpg: "):
        images.image(row)


def test_few_pictures_split_too_and_hidden_folders_do_not_count(tmp_path):
    write(tmp_path / ".trash" / "z.jpg", jpeg(9))
    for number in range(3):
        write(tmp_path / f"{number}.jpg", jpeg(number))
        if number:
            lengths = [len(open_layout(tmp_path, split)) for split in ("train", "val")]
            assert sum(lengths) == number + 1
            assert all(lengths)


def test_one_picture_is_too_few(tmp_path):
    write(tmp_path / "a.jpg", jpeg(0))
    with pytest.raises(UserError, match=r"^data.path=.* holds one picture; training needs two.$"):
        open_layout(tmp_path, "train")


# ----------------------------------------------------------------------------------- mistakes
def refused(root, split, sentence):
    with pytest.raises(UserError, match=sentence):
        open_layout(root, split)


def test_a_table_that_does_not_fit_the_pictures(tmp_path):
    kaggle(tmp_path)
    table, val = tmp_path / KAGGLE_LABELS, tmp_path / KAGGLE / "val"
    (val / VAL[3][1]).unlink()
    refused(tmp_path, "val", rf"^{table} lists 7 pictures, {val} holds 6; the first that only one "
            r"of them has is ILSVRC2012_val_00000004: copy what is missing\.$")  # fmt: skip
    table.write_text(table.read_text().replace(IDS[1], "n09999999"))
    write(val / VAL[3][1], b"")
    refused(tmp_path, "val", rf"^{table} names the class n09999999, which train does not have\.$")
    table.write_text("a,b\n1,2\n")
    refused(tmp_path, "val", rf"^{table} has no columns ImageId and PredictionString\.$")
    table.unlink()
    refused(
        tmp_path,
        "val",
        rf"^{val} holds pictures and no class folders; put Kaggle's "
        rf"{KAGGLE_LABELS} into {val.parent}, or sort the pictures into val/CLASS\.$",
    )


def test_a_table_of_a_spreadsheet(tmp_path):
    """A byte-order mark, CRLF, a row twice: the same classes."""
    kaggle(tmp_path)
    expected = open_layout(tmp_path, "val").labels.tolist()
    table = tmp_path / KAGGLE_LABELS
    lines = table.read_text().splitlines()
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, lines[-1], ""]).encode())
    assert open_layout(tmp_path, "val").labels.tolist() == expected


def test_a_table_that_contradicts_itself_or_is_none(tmp_path):
    kaggle(tmp_path)
    table, (wnid, file) = tmp_path / KAGGLE_LABELS, VAL[0]
    other = next(name for name in IDS if name != wnid)
    whole = table.read_text()
    table.write_text(f"{whole}{Path(file).stem},{other} 1 2 3 4\n")
    refused(tmp_path, "val", rf"^{table} gives {Path(file).stem} more than one class; delete the "
            r"wrong rows\.$")  # fmt: skip
    for data in (b"", b"\xff\xfe\0\0"):
        table.write_bytes(data)
        refused(tmp_path, "val", rf"^{table} has no columns ImageId and PredictionString\.$")
    table.write_text(whole + "x" * 200_000)
    refused(tmp_path, "val", rf"^{table} is not a table \(.*\); download it again\.$")
    table.write_text("PredictionString,ImageId\nn01440764\n")
    refused(tmp_path, "val", rf"^{table} lists 1 pictures, ")


def test_official_files_that_are_missing_or_broken(tmp_path):
    official(tmp_path)
    (tmp_path / DEVKIT).write_bytes(b"<html>")
    refused(tmp_path, "val", rf"{DEVKIT} is not ImageNet's development kit \(.*\); download it")
    (tmp_path / DEVKIT).unlink()
    (tmp_path / TARS["val"]).unlink()
    refused(
        tmp_path,
        "train",
        rf"^{tmp_path} holds a tar file of ImageNet, but not "
        rf"{TARS['val']} and {DEVKIT}; download what is missing from image-net.org",
    )


def test_another_number_of_validation_pictures(tmp_path):
    official(tmp_path)
    write(tmp_path / TARS["val"], tar_of((file, PICTURES[file]) for _, file in VAL[1:]))
    refused(
        tmp_path, "val", rf"^{DEVKIT} has labels of 7 pictures, .* holds 6; download them again"
    )


def test_shards_without_validation(tmp_path):
    shards(tmp_path)
    for tar in tmp_path.glob("*validation*"):
        tar.unlink()
    refused(tmp_path, "val", r"has tar files for train and none for val; put them into .*/val, or")


def test_a_split_is_a_word_of_a_name(tmp_path):
    for name, picture in (("interval-train-0.tar", "a/1.jpg"), ("interval-valid-0.tar", "a/2.jpg")):
        write(tmp_path / name, tar_of([(picture, jpeg(0))]))
    images = open_layout(tmp_path, "val")
    assert [images.name(row) for row in range(len(images))] == ["val/a/2.jpg"]
    both = tmp_path / "train-val.tar"
    (tmp_path / "interval-train-0.tar").rename(both)
    refused(tmp_path, "train", rf"^The name of {both} says both train and val; rename it\.$")


@pytest.mark.parametrize("leftover", ["train.tar", *TARS.values()])
def test_tar_files_beside_class_folders_are_leftovers(tmp_path, leftover):
    class_folders(tmp_path)
    write(tmp_path / leftover, b"half a download")
    assert len(open_layout(tmp_path, "train")) == len(TRAIN)


def test_a_row_without_classes(tmp_path):
    kaggle(tmp_path)
    table = tmp_path / KAGGLE_LABELS
    table.write_text(table.read_text().replace(f",{VAL[0][0]} 1 2 3 4", "", 1))
    refused(tmp_path, "val", rf"^{table} names the class , which train does not have\.$")


def test_class_folders_stay_what_they_were(tmp_path):
    class_folders(tmp_path)
    write(tmp_path / "val" / "contact-sheet.jpg", jpeg(0))  # among class folders: of no class
    assert len(open_layout(tmp_path, "val")) == len(VAL)
    shutil.rmtree(tmp_path / "val")
    refused(tmp_path, "val", r"has no folder val inside; it must have train/CLASS")
