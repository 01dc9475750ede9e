import json

import pytest
from PIL import Image

from MaskGIL.data.captioned import find_table, has_captions, read_sidecar, read_table, sidecar
from Network.config import UserError


def test_rows_of_a_table(tmp_path):
    path = tmp_path / "captions.tsv"
    path.write_text(
        'file_name\tcaption\nb/1.jpg\ta "red" cat, big\n./a.jpg\ta dog\nb/1.jpg\ta cat\n\n',
        "utf-8",
    )
    assert read_table(path) == {"b/1.jpg": ['a "red" cat, big', "a cat"], "a.jpg": ["a dog"]}
    path = tmp_path / "metadata.csv"
    path.write_text('﻿file_name,width,text\na.jpg,4,"a dog,\n""Rex"""\n', "utf-8")
    assert read_table(path) == {"a.jpg": ['a dog,\n"Rex"']}
    path = tmp_path / "metadata.jsonl"
    lines = [
        {"image": "a.jpg", "captions": ["one", "two"]},
        {"image": "b.jpg", "captions": "three"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_table(path) == {"a.jpg": ["one", "two"], "b.jpg": ["three"]}


def test_the_index_of_emoji64(tmp_path):
    path = tmp_path / "index.tsv"
    path.write_text(
        "split\tclass\tfile\tvendor\tsubcategory\tshort_name\n"
        "val\tobjects\tgoogle_1f526.png\tgoogle\tlight & video\tflash_light\n"
    )
    said = ["flash light", "google emoji of flash light"]
    assert read_table(path) == {"val/objects/google_1f526.png": said}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "captions.tsv",
            "a.jpg\ta dog\nb.jpg\ta cat",
            "line 2 has no column file_name or",
        ),
        (
            "captions.csv",
            "file_name,label\na.jpg,3",
            "no column .*, only file_name, label",
        ),
        ("captions.jsonl", '{"image": "a", "text": "b"}\n{"image"', "line 2 is not JSON"),
        ("captions.jsonl", "[" * 50_000, "line 1 is not JSON"),
        ("captions.jsonl", '["a.jpg", "b"]', "line 1 names no columns"),
        (
            "captions.jsonl",
            '{"image": "a", "text": 3}',
            "line 1: the picture or a caption is",
        ),
        (
            "captions.jsonl",
            '{"image": 3, "text": "a"}',
            "line 1: the picture or a caption is",
        ),
        ("captions.tsv", "file_name\tcaption\na.jpg\t" + "x" * 200_000, "line 2: field larger"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^{path},? .*{sentence}"):
        read_table(path)


def test_other_bytes_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{path} is not text in UTF-8 \(.*\); save it as such"):
        read_sidecar(path)
    path.write_text("x" * 70_000)
    with pytest.raises(UserError, match=rf"^{path} is too long for captions \(65536 bytes\)"):
        read_sidecar(path)


def test_which_files_count(tmp_path):
    assert not has_captions(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.b.jpg")
    assert sidecar(tmp_path / "a.b.jpg") is None
    (tmp_path / "a.b.caption").write_text("a\nb")
    assert sidecar(tmp_path / "a.b.jpg") == tmp_path / "a.b.caption"
    (tmp_path / "a.b.txt").write_text("c")
    assert sidecar(tmp_path / "a.b.jpg") == tmp_path / "a.b.txt"  # the usual one first
    assert read_sidecar(tmp_path / "a.b.caption") == ["a", "b"]
    assert has_captions(tmp_path)
    assert has_captions(tmp_path.parent)  # in a folder of it


def test_two_tables_are_one_too_many(tmp_path):
    (tmp_path / "captions.tsv").touch()
    assert find_table(tmp_path) == tmp_path / "captions.tsv"
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(UserError, match=rf"^{tmp_path} holds captions.tsv and metadata.jsonl, two"):
        find_table(tmp_path)
