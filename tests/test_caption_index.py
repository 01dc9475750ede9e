"""What is damaged is told; see test_caption_cache for what a whole cache holds."""

import json

import pytest
from test_caption_cache import folder, reference

from MaskGIL.caption_cache import CaptionCache
from MaskGIL.caption_index import captions_hash, read_index
from Network.config import UserError

__all__ = ["folder", "reference"]  # fixtures


def change_index(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "no index": (
        lambda folder: (folder / "index.json").unlink(),
        "No caption cache in .*: index.json is missing; write the cache",
    ),
    "no JSON": (
        lambda folder: (folder / "index.json").write_text("{"),
        "index.json is not JSON .*; delete the folder .* and run the command that wrote it again",
    ),
    "no dict": (
        lambda folder: (folder / "index.json").write_text("[]"),
        "index.json has version None, not 1; delete",
    ),
    "another version": (
        lambda folder: change_index(folder, version=9),
        "index.json has version 9, not 1; delete",
    ),
    "no encoder": (
        lambda folder: change_index(folder, encoder={}),
        "index.json is damaged at encoder.width; delete",
    ),
    "another chunk": (
        lambda folder: change_index(folder, chunk=256),
        "index.json is damaged at chunk; delete",
    ),
    "hashes are missing": (
        lambda folder: change_index(folder, sha256=[]),
        r"features.bin is damaged in chunk 0 \(sha256 differs\); delete",
    ),
    "a bit of the features": (
        lambda folder: flip(folder / "features.bin", -1),
        r"features.bin is damaged in chunk 2 \(sha256 differs\); delete",
    ),
    "a bit of the captions": (
        lambda folder: flip(folder / "captions.bin", 8),
        r"captions.bin is damaged \(sha256 differs\); delete",
    ),
    "no images": (
        lambda folder: (folder / "images.bin").unlink(),
        r"images.bin is damaged \(sha256 differs\); delete",
    ),
    "features too short": (
        lambda folder: (folder / "features.bin").write_bytes(b"12"),
        r"features.bin has 2 bytes, not \d+; delete",
    ),
    "no features": (
        lambda folder: (folder / "features.bin").unlink(),
        r"features.bin has 0 bytes, not \d+; delete",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_told_in_a_sentence(folder, name):
    damage, told = DAMAGES[name]
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        CaptionCache.open(folder)
    assert "\n" not in str(caught.value)


def test_without_verifying_only_small_files_are_read(folder):
    flip(folder / "features.bin", -1)
    CaptionCache.open(folder, verify=False)
    flip(folder / "captions.bin", 8)
    with pytest.raises(UserError, match=r"captions.bin is damaged"):
        CaptionCache.open(folder, verify=False)


def test_the_hash_knows_groups_order_and_text():
    groups = [
        *([["a", "b"], ["c"]], [["a"], ["b", "c"]], [["a", "b", "c"]], [["b", "a"], ["c"]]),
        *([["a", "b"], ["C"]], [['a", "b'], ["c"]], [["a", "b"], ["c"], []]),
    ]
    assert len({captions_hash(each) for each in groups}) == len(groups)


def test_an_index_is_read_as_it_was_written(reference):
    assert read_index(reference)["captions"]["images"] == 1300
