"""What tar files may hold; a miniature ImageNet in each layout is in test_layouts.py."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.data import members
from MaskGIL.data.folders import UnreadableImage
from MaskGIL.data.members import read_members
from MaskGIL.data.shards import open_shards
from Network.config import UserError


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "maskgil"


def png(grey):
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(data, "PNG")
    return data.getvalue()


def tar(path, *files, **kinds):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    return path


def opened(path, *files, split="train"):
    tars = [tar(path, *files)]
    return open_shards(tars, split, tars)


def shown(images):
    return [(images.name(row), int(images.labels[row])) for row in range(len(images))]


def test_numbers_from_json_or_cls(tmp_path):
    images = opened(tmp_path / "a.tar", ("b.png", png(1)), ("b.json", b'{"label": 1, "w": 4}'),
                    ("a.cls", b"0\n"), ("a.png", png(2)), ("c.cls", b"1"), ("c.png", png(3)),
                    ("c.txt", b"a caption"))  # fmt: skip
    assert shown(images) == [("train/0/a.png", 0), ("train/1/b.png", 1), ("train/1/c.png", 1)]
    assert [np.asarray(images.image(row)).max() for row in range(3)] == [2, 1, 3]


def test_names_of_the_numbers(tmp_path):
    files = [("n00000002_1.png", png(1)), ("n00000002_1.cls", b"1"),
             ("n00000001_1.png", png(1)), ("n00000001_1.cls", b"0")]  # fmt: skip
    assert opened(tmp_path / "a.tar", *files).classes == ["n00000001", "n00000002"]
    mixed = [*files, ("n00000001_2.png", png(1)), ("n00000001_2.cls", b"1")]
    assert opened(tmp_path / "b.tar", *mixed).classes == ["0", "1"]  # the ids contradict
    (tmp_path / "classes.txt").write_text("cat\ndog\nnobody\n")
    assert opened(tmp_path / "a.tar", *files).classes == ["cat", "dog", "nobody"]
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"classes.txt names 1 classes, but a picture has the clas"):
        opened(tmp_path / "a.tar", *files)


def test_links_and_folders_are_no_pictures(tmp_path):
    path = tar(tmp_path / "a.tar", ("cat/a.png", png(1)), **{"cat/b.png": tarfile.SYMTYPE},
               **{"dog": tarfile.DIRTYPE})  # fmt: skip
    assert read_members([path]).names.tolist() == [b"cat/a.png"]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "cat/../../a.png"])
def test_a_name_that_points_outside_is_refused(tmp_path, name):
    path = tar(tmp_path / "a.tar", (name, png(1)))
    with pytest.raises(UserError) as error:
        read_members([path])
    assert str(error.value) == (
        f"{path} holds {name!r}, which points outside of it; do not use it."
    )


def test_a_truncated_file_is_named(tmp_path, memory):
    path = tar(tmp_path / "a.tar", ("cat/a.png", png(1)), ("cat/b.png", bytes(5000)))
    whole = path.read_bytes()
    second = whole.index(b"cat/b.png")
    broken = bytearray(whole)
    broken[second : second + 200] = b"\xff" * 200  # a header that is none
    holes = whole[:second] + bytes(2**21)  # a download that was begun with zeros
    for cut in (whole[:3000], whole[:700], b"<html>", b"", whole[: second + 100], whole[:second],
                bytes(broken), holes):  # fmt: skip
        path.write_bytes(cut)
        with pytest.raises(UserError, match=rf"^{path} is not a whole tar file \(.*\); download"):
            read_members([path])
    assert not memory.exists()  # nothing half is remembered


def header(name, size=0, **fields):
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def nested(depth):
    data = b""
    for _ in range(depth):
        data = header("in.tar", len(data)) + data + bytes(1024)
    return data


def sparse():
    """A picture of 512 bytes that says to have 8 GB, in GNU's old way: its 12 digits at 483."""
    data = bytearray(header("cat/a.png", 512, type=tarfile.GNUTYPE_SPARSE))
    data[483:495] = b"77777777777\0"
    data[148:156] = b" " * 8  # the checksum counts itself as blanks
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data) + bytes(512)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header("cat/a.png", 10 << 30) + bytes(600), "unexpected end of data"),
        (header("cat/a.json", 2**62), ".*"),  # a place that no file has
        (header("cat/a.png", 2**80), ".*"),
        (header("cat/a.png", -1), "'cat/a.png' has holes or no size"),
        (sparse(), "'cat/a.png' has holes or no size"),
        (header("p", 7 << 30, type=tarfile.XHDTYPE) + bytes(600), ".*"),
        (nested(500), ".*recursion.*"),
        (gzip.compress(bytes(10240)), ".*"),
    ],
    ids=["10 GB", "2^62", "2^80", "-1", "sparse", "pax", "nested", "gzip"],
)
def test_a_header_that_lies(tmp_path, data, reason):
    path = tmp_path / "a.tar"
    path.write_bytes(data + bytes(10240))
    sentence = rf"^{path} is not a whole tar file \({reason}\); download it again, uncompressed\.$"
    with pytest.raises(UserError, match=sentence):
        read_members([path])


def test_pictures_that_share_a_key_all_count(tmp_path):
    files = [(f"cat/photo 10.{number}.png", png(number)) for number in range(5)]
    assert (
        len(opened(tmp_path / "a.tar", *files, ("dog/a.png", png(7)), ("dog/a.jpg", png(8)))) == 7
    )


@pytest.mark.parametrize("label", [b"[" * 50_000, b"-1", b"1.5", b"null", b"{}", b"cat"])
def test_a_label_that_is_no_number_counts_as_none(tmp_path, label):
    images = opened(tmp_path / "a.tar", ("cat/a.png", png(1)), ("cat/a.json", label))
    assert images.classes == ["cat"]


def test_a_number_that_is_no_class(tmp_path):
    with pytest.raises(UserError, match=r"has a class number of 20 digits in KEY.cls or KEY.json"):
        opened(tmp_path / "a.tar", ("a.png", png(1)), ("a.cls", b"9" * 20))


def test_a_damaged_picture_is_one_line(tmp_path):
    images = opened(tmp_path / "a.tar", ("cat/a.png", png(1)[:40]), ("cat/b.png", png(1)))
    with pytest.raises(UnreadableImage, match=r"^cannot read train/cat/a.png: "):
        images.image(0)
    assert images.image(1).size == (4, 4)


def test_a_picture_without_class(tmp_path):
    with pytest.raises(UserError, match=r"a picture has no class: each needs KEY.cls or KEY.json"):
        opened(tmp_path / "a.tar", ("a.png", png(1)), ("cat/b.png", png(1)))
    train, val = tar(tmp_path / "t.tar", ("cat/b.png", png(1))), tmp_path / "v.tar"
    tar(val, ("dog/b.png", png(1)))
    with pytest.raises(UserError, match=r"class dog is not among those of train"):
        open_shards([val], "val", [train])


def test_numbers_that_train_does_not_have(tmp_path):
    train = tar(tmp_path / "t.tar", ("a.png", png(1)), ("a.cls", b"1"))
    val = tar(tmp_path / "v.tar", ("a.png", png(1)), ("a.cls", b"2"))
    sentence = (
        rf"^A picture for val in the tar files of {tmp_path} has the class 2, train has 0 to 1"
    )
    with pytest.raises(UserError, match=sentence):
        open_shards([val], "val", [train])
    with pytest.raises(UserError, match=rf"^The tar files of {tmp_path} hold no pictures for val"):
        open_shards([tar(val, ("notes.txt", b"-"))], "val", [train])


def test_headers_are_read_once(tmp_path, memory, monkeypatch):
    path = tar(tmp_path / "a.tar", ("cat/a.png", png(1)))
    first = read_members([path])
    assert len(list(memory.iterdir())) == 1
    monkeypatch.setattr(members, "_read_samples", None)  # would be called
    again = read_members([path])
    assert again.offsets.tolist() == first.offsets.tolist()
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    tar(path, ("cat/a.png", png(1)), ("cat/b.png", png(2)))  # another file under its name
    assert len(read_members([path]).names) == 2


def test_a_home_that_cannot_be_written_to(tmp_path, memory):
    memory.parent.mkdir(parents=True)
    memory.write_bytes(b"a file in the way")
    path = tar(tmp_path / "a.tar", ("cat/a.png", png(1)))
    assert len(read_members([path]).names) == 1
