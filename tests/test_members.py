"""Captions and refusals in tar files; what else their headers may hold is in test_shards.py."""

import io
import tarfile

import pytest
import torch

from MaskGIL.data.members import captions_of, key_of, read_members
from MaskGIL.data.shards import open_shards
from Network.config import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def tar(path, **files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def opened(path, **files):
    return open_shards([tar(path, **files)], "train", [path])


def test_captions_of_every_kind(tmp_path):
    images = opened(
        tmp_path / "a.tar",
        **{"1.jpg": b"", "1.json": b'{"caption": "of 1", "label": "x"}'},
        **{"2.txt": b"a\nb", "2.json": b'{"caption": "not this"}', "2.jpg": b""},
        **{"3.jpg": b"", "3.caption": "café".encode(), "3.json": b"{}"},
        **{"in/4.jpg": b"", "in/4.json": b'{"text": ["c", "d", 3]}', "4.txt.jpg": b""},
        **{"4.txt": b"of the picture above"},
    )
    said = {images.name(row): images.captions(row) for row in range(len(images))}
    assert said == {
        "train/1.jpg": ["of 1"],
        "train/2.jpg": ["a", "b"],
        "train/3.jpg": ["café"],
        "train/4.jpg": ["c", "d"],
        "train/4.txt.jpg": ["of the picture above"],
    }
    assert list(images.classes) == []
    assert not images.labels.any()


def test_classes_stay_classes(tmp_path):
    images = opened(tmp_path / "a.tar", **{"cat/1.jpg": b"", "cat/1.txt": b"a cat"})
    assert images.name(0) == "train/cat/1.jpg"
    assert images.captions(0) == ["a cat"]
    with pytest.raises(UserError, match=r"a picture has no class: .* or all need captions, in KEY"):
        opened(tmp_path / "b.tar", **{"1.jpg": b"", "1.txt": b"a", "2.jpg": b""})


def test_captions_without_a_picture_are_known(tmp_path):
    path = tar(
        tmp_path / "a.tar", **{"1.jpg": b"", "1.txt": b"a", "in/2.txt": b"b", "3.json": b"{}"}
    )
    assert read_members([path]).orphans.tolist() == [b"in/2"]
    again = read_members([path])  # from memory
    assert again.orphans.tolist() == [b"in/2"]
    assert again.captions[:, 1:].tolist() == [[1, 2]]


def test_bytes_that_are_no_text(tmp_path):
    images = opened(tmp_path / "a.tar", **{"1.jpg": b"", "1.txt": b"\xff\xfe"})
    with pytest.raises(UserError, match=r"^The captions of train/1.jpg are no text in UTF-8"):
        images.captions(0)


@pytest.mark.parametrize("name", ["1.pyd", "in/1.pickle", "1.PKL", "1.pth"])
def test_pickled_members_are_refused_unread(tmp_path, name):
    path = tar(tmp_path / "a.tar", **{"1.jpg": b"", name: b"cos\nsystem\n(S'exit 1'\ntR."})
    sentence = rf"^{path} holds '{name}', pickled objects that may run code when read; do not use"
    with pytest.raises(UserError, match=sentence):
        read_members([path])


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ({"caption": "a", "text": "b"}, ["a"]),
        ({"prompt": "a"}, ["a"]),
        ({"captions": ["a", "b"]}, ["a", "b"]),
        ({"caption": None}, []),
        ({"width": 4}, []),
        (["a"], []),
        (None, []),
    ],
)
def test_captions_in_json(value, captions):
    assert captions_of(value) == captions


def test_keys_end_at_the_first_dot_behind_the_folders():
    assert key_of("a.b/photo 10.3.jpg") == "a.b/photo 10"
    assert key_of("1.jpg") == key_of("1.txt") == "1"
