"""Captions from folders and from drawings; those of tar files are in test_members.py too."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.config import DataConfig
from MaskGIL.data import open_captions, open_images
from MaskGIL.data.captions import CaptionTable, draw_captions, draw_dropped, folder_captions
from MaskGIL.data.layouts import open_layout
from Network.config import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """What is remembered of tar files stays inside the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def png():
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    return data.getvalue()


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if text is None else text.encode())


def opened(root, split="train"):
    images = open_layout(root, split)
    table = folder_captions(root, split, images)
    return {images.name(row): table[row] for row in range(len(images))}


# ------------------------------------------------------------------------------------ folders
def test_texts_beside_pictures_in_class_folders(root):
    write(
        root, {f"{split}/{name}.png": None for split in ("train", "val") for name in ("a/1", "b/2")}
    )
    write(root, {"train/a/1.txt": "\ufeffa cat\n\n  a big \t cat \n", "train/b/2.caption": "a dog"})
    assert opened(root) == {"train/a/1.png": ("a cat", "a big cat"), "train/b/2.png": ("a dog",)}
    with pytest.raises(UserError, match=rf"^data.path={root} has no captions; put NAME.txt beside"):
        opened(root, "val")


def test_one_folder_without_split(root):
    write(root, {f"{number:02d}.png": None for number in range(60)})
    write(root, {f"{number:02d}.txt": f"number {number}" for number in range(60)})
    both = opened(root) | opened(root, "val")
    assert both == {
        f"{split}/{number:02d}.png": (f"number {number}",)
        for number in range(60)
        for split in ("train", "val")
        if f"{split}/{number:02d}.png" in both
    }
    assert len(both) == 60


def test_folders_of_a_download_are_no_classes(root):
    """As img2dataset writes files: 00000/000000001.jpg, .txt and .json."""
    files = {f"{n % 3:05d}/{n:09d}": n for n in range(40)}
    write(root, {f"{name}.png": None for name in files})
    write(root, {f"{name}.txt": f"number {n}" for name, n in files.items()})
    write(root, {f"{name}.json": "{}" for name in files})
    both = opened(root) | opened(root, "val")
    assert len(both) == 40
    assert {name.partition("/")[2]: text for name, text in both.items()} == {
        f"{name}.png": (f"number {n}",) for name, n in files.items()
    }


def test_flat_splits_with_a_table_in_each(root):
    """As the hub's image folders have it: train/metadata.jsonl."""
    for split in ("train", "val"):
        rows = [{"file_name": f"{n}.png", "text": f"{split} {n}"} for n in range(2)]
        write(root, {f"{split}/{n}.png": None for n in range(2)})
        write(root, {f"{split}/metadata.jsonl": "\n".join(map(json.dumps, rows))})
    for split in ("train", "val"):
        assert opened(root, split) == {f"{split}/{n}.png": (f"{split} {n}",) for n in range(2)}


def test_a_table_above_both_splits(root):
    names = [f"{split}/{name}.png" for split in ("train", "val") for name in ("a/1", "b/2")]
    write(root, dict.fromkeys(names))
    table = "file_name\tcaption\n" + "".join(f"{name}\tof {name}\n" for name in names)
    write(root, {"captions.tsv": table, "train/a/1.txt": "not read beside a table"})
    assert opened(root, "val") == {name: (f"of {name}",) for name in names[2:]}
    assert opened(root, "train") == {name: (f"of {name}",) for name in names[:2]}


def test_the_index_of_emoji64(root):
    lines = ["split\tclass\tfile\tvendor\tsubcategory\tshort_name"]
    for split in ("train", "val"):
        write(root, {f"{split}/objects/google_1f526.png": None})
        lines.append(f"{split}\tobjects\tgoogle_1f526.png\tgoogle\tlight & video\tflash_light")
    write(root, {"index.tsv": "\n".join(lines)})
    assert opened(root, "val") == {
        "val/objects/google_1f526.png": ("flash light", "google emoji of flash light")
    }


def test_what_is_alone_is_named(root):
    write(root, {f"{number}.png": None for number in range(8)})
    write(root, {f"{number}.txt": "a" for number in range(8)})
    kept = {text for split in ("train", "val") for text in opened(root, split)}
    assert len(kept) == 8
    write(root, {"lost.txt": "a", "old.caption": "a"})
    with pytest.raises(UserError, match=r"^2 captions have no picture: lost.txt, old.caption; add"):
        opened(root)
    for name in ("lost.txt", "old.caption", *(f"{number}.txt" for number in range(7))):
        (root / name).unlink()
    write(root, {"7.txt": "a"} | {f"{number}.txt": " \n" for number in range(3)})
    rows = len(open_layout(root, "train"))
    with pytest.raises(UserError, match=rf"^{rows - 1} pictures have no caption: train/0.png, .*"):
        opened(root)
    write(root, {"captions.csv": "file,text\n9.png,a\n"})
    with pytest.raises(UserError, match=rf"^1 caption has no picture: 9.png in {root}/capt"):
        opened(root)


def test_many_names_are_cut(root):
    with pytest.raises(UserError, match=r"^7 pictures have no caption: 0, 1, 2, 3, 4 and 2 more;"):
        CaptionTable([[]] * 7, [str(number) for number in range(7)])


# ---------------------------------------------------------------------------------- tar files
def test_tar_files(root):
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for name, data in (("2.png", png()), ("1.txt", b"a cat\na pet\n"), ("1.png", png()),
                               ("2.json", b'{"caption": "a dog", "width": 4}')):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        expected = {f"{split}/1.png": ("a cat", "a pet"), f"{split}/2.png": ("a dog",)}
        assert opened(root, split) == expected


def test_tar_files_of_no_split(root):
    """As img2dataset writes them: 00000.tar."""
    write(root, {"00000.tar": ""})
    with pytest.raises(
        UserError, match=rf"has tar files, and none for train; put them into {root}"
    ):
        open_layout(root, "train")


def test_a_command_for_a_path_is_not_run():
    with pytest.raises(UserError, match=r"^data.path=pipe:cat a.tar is a command and is never run"):
        open_layout("pipe:cat a.tar", "train")


# ------------------------------------------------------------------------------------ sources
@pytest.mark.parametrize("source", ["scenes", "shapes"])
def test_drawings_have_captions(source):
    config = DataConfig(source=source, num_images=40)
    images = open_images(config, "train")
    table = open_captions(config, "train", images)
    assert [table[row] for row in range(40)] == [images.captions(row) for row in range(40)]
    assert set(table.counts) == {2 if source == "scenes" else 1}


def test_folders_have_captions(root):
    write(root, {f"{split}/{n}.png": None for split in ("train", "val") for n in range(3)})
    write(root, {f"train/{n}.txt": f"number {n}" for n in range(3)})
    config = DataConfig(source="folder", path=str(root))
    table = open_captions(config, "train", open_images(config, "train"))
    assert [table[row] for row in range(3)] == [(f"number {n}",) for n in range(3)]


def test_a_source_without_captions():
    images = open_images(DataConfig(), "val")
    with pytest.raises(UserError, match=r"^data.source=mnist has no captions; choose shapes, scen"):
        open_captions(DataConfig(source="mnist"), "val", images)


def test_a_table_survives_the_way_to_a_worker():
    captions = [["a", "b  c"], ["é\nü"], [" ", "日本", ""], [json.loads('"half \\ud83d"')]]
    table = pickle.loads(pickle.dumps(CaptionTable(captions, list("wxyz"))))
    assert list(table) == [("a", "b c"), ("é ü",), ("日本",), ("half ?",)]
    assert table.counts.tolist() == [2, 1, 1, 1]
    for row in (-1, 4):
        with pytest.raises(IndexError, match=f"picture {row} of 4"):
            table[row]


# -------------------------------------------------------------------------------------- draws
def test_which_caption_is_a_function_of_seed_and_sample():
    counts, samples = torch.full((3000,), 5), torch.arange(3000)
    numbers = draw_captions(counts, 3, samples)
    for part in (slice(0, 7), slice(2990, 3000)):
        assert torch.equal(draw_captions(counts[part], 3, samples[part]), numbers[part])
    assert not torch.equal(draw_captions(counts, 4, samples), numbers)
    seen = np.bincount(numbers, minlength=5)
    assert len(seen) == 5
    assert np.abs(seen - 600).max() < 4 * np.sqrt(3000 * 0.2 * 0.8)  # four standard errors
    few = torch.randint(1, 6, (3000,))
    assert (draw_captions(few, 0, samples) < few).all()


def test_which_caption_is_dropped_follows_from_neither_its_number_nor_the_share():
    counts, samples = torch.full((3000,), 2), torch.arange(3000)
    few, many = (draw_dropped(share, 0, samples) for share in (0.1, 0.5))
    assert abs(few.float().mean() - 0.1) < 4 * np.sqrt(0.09 / 3000)
    assert many[few].all()
    numbers = draw_captions(counts, 0, samples)[many].float()
    assert abs(numbers.mean() - 0.5) < 4 * np.sqrt(0.25 / 1500)
    assert draw_dropped(1.0, 0, samples).all()
    assert not draw_dropped(0.0, 0, samples).any()
    assert torch.equal(draw_dropped(0.5, 0, samples[7:]), many[7:])
