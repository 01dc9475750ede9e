import hashlib
import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from MaskGIL.cache_index import (
    CHUNK,
    Part,
    check_classes,
    check_files,
    check_same,
    dtype_of,
    new_index,
    read_index,
)
from MaskGIL.durable import to_json
from Network.config import UserError


class Rows(list):
    classes = ("ant", "lone byte \udcff")

    @property
    def labels(self):
        return np.zeros(len(self), np.int64)

    def name(self, row):
        return f"{row} \udcff.png"


def index_of(num_rows, image_size=48, crops="ten"):
    tokenizer = SimpleNamespace(name="t", fingerprint="f00d", codebook_size=1024, stride=16)
    return new_index(Rows(range(num_rows)), tokenizer, crops, image_size, 64)


@pytest.mark.parametrize("num_rows", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 1_281_167])
def test_chunks_cover_every_row_once(tmp_path, num_rows):
    part = Part.of(tmp_path, index_of(num_rows))
    chunks = [part.rows_of(chunk) for chunk in range(part.num_chunks)]
    assert chunks[0].start == 0
    assert chunks[-1].stop == num_rows
    assert all(one.stop == two.start for one, two in pairwise(chunks))
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) <= CHUNK
    assert part.size == num_rows * 10 * 3 * 3 * 2  # crops, h, w, bytes


def test_hash_of_a_chunk(tmp_path):
    part = Part.of(tmp_path, index_of(CHUNK + 2, image_size=16, crops="center"))
    codes = np.arange(CHUNK + 2, dtype="<u2")
    part.path.write_bytes(codes.tobytes())
    assert part.hash_of(0) == hashlib.sha256(codes[:CHUNK].tobytes()).hexdigest()
    assert part.hash_of(1) == hashlib.sha256(codes[CHUNK:].tobytes()).hexdigest()


def test_index_survives_json_whatever_the_class_names():
    index = index_of(3)
    assert json.loads(to_json(index)) == index
    assert to_json(index) == to_json(index_of(3))


def test_size_without_grid():
    with pytest.raises(UserError, match=r"data.image_size=50 is no multiple of 16, the stride"):
        index_of(3, image_size=50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^No token cache in .*: index.json is missing; write the cache first.$"),
        (
            "{",
            r"index.json is not JSON \(.*\); delete the folder .* and run the command that .*$",
        ),
        ('{"version": 9}', r"index.json has version 9, not 2; delete the folder .* again.$"),
        ("[]", r"index.json has version None, not 2; delete the folder .* again.$"),
        (100_000 * "[", r"index.json is not JSON \(.*\); delete the folder .* again.$"),
    ],
)
def test_broken_index(tmp_path, text, message):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_index(tmp_path)


def test_half_an_index(tmp_path):
    text = to_json(index_of(3))
    (tmp_path / "index.json").write_bytes(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"index.json is not JSON \(.*\); delete the folder"):
        read_index(tmp_path)


def keys(value, path=()):
    """Where every value of an index stands, but not what stands in a dict of names."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list) and key not in ("images", "classes"):
            yield from keys(inner, (*path, key))


UNREAD = {"encode_batch", "precision"}  # a cache from elsewhere need not have them


@pytest.mark.parametrize("path", list(keys(index_of(3))), ids=str)
def test_a_missing_or_odd_value_is_named(tmp_path, path):
    def damage(change):
        index = index_of(3)
        inside = index
        for key in path[:-1]:
            inside = inside[key]
        change(inside)
        (tmp_path / "index.json").write_bytes(to_json(index))

    key = path[-1]
    for change in (lambda inside: inside.pop(key), lambda inside: inside.__setitem__(key, None)):
        damage(change)
        if key in UNREAD:
            read_index(tmp_path)
            continue
        with pytest.raises(UserError) as error:
            read_index(tmp_path)
        named = ".".join(map(str, path[:-1] if isinstance(key, int) else path))
        known = f"is damaged at {named}", "has version None"
        assert any(text in str(error.value) for text in known)
        assert str(error.value).endswith("run the command that wrote it again.")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("tokenizer.codebook_size", lambda index: index["tokenizer"].update(codebook_size=0)),
        ("dtype", lambda index: index.update(dtype="<u4")),
        ("classes", lambda index: index["classes"].update(ant=1)),
        ("classes_sha256", lambda index: index["classes"].update(cow=2)),
        ("parts.0.rows", lambda index: index["parts"][0].update(rows=0)),
        ("parts.0.crops", lambda index: index["parts"][0].update(crops=-1)),
        ("parts.0.grid", lambda index: index["parts"][0].update(grid=[0, 3])),
        ("parts.0.file", lambda index: index["parts"][0].update(file="../labels.bin")),
        ("parts.0.chunk", lambda index: index["parts"][0].update(chunk=128)),
        ("parts.0.sha256", lambda index: index.update(complete=True)),  # without hash: unverified
    ],
)
def test_a_contradiction_is_named(tmp_path, key, change):
    index = index_of(3)
    change(index)
    (tmp_path / "index.json").write_bytes(to_json(index))
    with pytest.raises(UserError, match=rf"index.json is damaged at {key}; delete the folder"):
        read_index(tmp_path)


def test_no_flipped_bit_of_an_index_ends_in_anything_but_a_sentence(tmp_path):
    data, refused = to_json(index_of(3)), 0
    for position, byte in enumerate(data):
        flipped = bytes([byte ^ 1 << position % 8])
        (tmp_path / "index.json").write_bytes(data[:position] + flipped + data[position + 1 :])
        try:
            index = read_index(tmp_path)
            check_files(tmp_path, index, verify=True)
        except UserError:
            refused += 1
    assert refused == len(data)  # at the latest because no other file is there


def test_an_absurd_grid_takes_no_memory(tmp_path):
    index = index_of(3)
    index["parts"][0].update(grid=[10**9, 10**9], file="tokens-1000000000x1000000000.bin")
    (tmp_path / "index.json").write_bytes(to_json(index))
    assert Part.of(tmp_path, read_index(tmp_path)).size == 3 * 10 * 10**18 * 2


def test_without_precision_it_is_float32(tmp_path):
    index = index_of(3)
    del index["transform"]["precision"]
    (tmp_path / "index.json").write_bytes(to_json(index))
    assert read_index(tmp_path) == index_of(3)


def test_code_width():
    assert dtype_of(65_536).itemsize == 2  # the largest code is 65,535
    assert dtype_of(65_537).itemsize == 4


def test_first_difference_is_named(tmp_path):
    check_same(tmp_path, "thing", {"a": 1, "b": [2]}, {"b": [2], "a": 1})
    for found, wanted, text in [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "another thing: b is 2 there and 3 here"),
        ({"a": 1}, {}, "a is 1 there and None here"),
        ({}, {"a": 1}, "a is None there and 1 here"),
    ]:
        with pytest.raises(UserError, match=text):
            check_same(tmp_path, "thing", found, wanted)


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        (["ant", "cow", "bee"], "cow is 2 there and 1 here"),
        (["ant", "bee"], "cow is 2 there and None here"),
        (["ant", "bee", "cow", "dog"], "dog is None there and 3 here"),
    ],
)
def test_other_classes(tmp_path, classes, difference):
    index = {"classes": {"ant": 0, "bee": 1, "cow": 2}}
    with pytest.raises(UserError, match=f"another list of classes: {difference}"):
        check_classes(tmp_path, index, classes)
