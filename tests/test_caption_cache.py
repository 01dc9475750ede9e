import functools
import hashlib
import itertools
import json
import pickle
import random

import numpy as np
import pytest
import tiny_text
import torch

from MaskGIL import caption_cache, durable
from MaskGIL.caption_cache import CaptionCache, finish_captions, write_captions
from Network.condition import Captions
from Network.config import UserError
from Network.text import load_text_encoder

WORDS = ["red", "blue", "circle", "square", "above", "below", "on", "two", "a", "dark"]
NUM_IMAGES = 1300  # 1 to 3 captions each: two full chunks and a short one


def captioned(num_images=NUM_IMAGES, seed=0):
    draw = random.Random(seed)

    def caption():
        return " ".join(draw.choices(WORDS, k=draw.randrange(9)))

    return [[caption() for _ in range(draw.randrange(1, 4))] for _ in range(num_images)]


class WordEncoder:
    """A token per word and one for the end: four numbers that its hash and its place make up."""

    width, precision = 4, "fp32"

    def __init__(self, name="words", fingerprint="f00d", num_tokens=9, most_tokens=8):
        self.name, self.fingerprint = name, fingerprint
        self.num_tokens, self.most_tokens = num_tokens, most_tokens
        self.encoded = 0

    def lengths(self, captions):
        return [min(len(caption.split()) + 1, self.most_tokens) for caption in captions]

    def features(self, captions):
        self.encoded += len(captions)
        return [self.of(caption) for caption in captions]

    def of(self, caption):
        words = [*caption.split(), "."][: self.most_tokens]
        return torch.stack([_numbers(word, place) for place, word in enumerate(words)])

    def __call__(self, captions):
        return Captions.padded(self.features(captions), self.num_tokens)


@functools.cache
def _numbers(word, place):
    digest = hashlib.sha256(f"{word} {place}".encode()).digest()
    return torch.tensor([int.from_bytes(digest[i : i + 4], "big") / 2**31 - 1 for i in range(4)])


def write(folder, captions=None, encoder=None, world_size=1):
    encoder = encoder or WordEncoder()
    for rank in range(world_size):
        write_captions(folder, captions or captioned(), encoder, rank=rank, world_size=world_size)
    finish_captions(folder)
    return encoder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "captions"
    write(folder)
    return folder


@pytest.fixture
def folder(tmp_path, reference):
    """A copy of the reference to be damaged."""
    folder = tmp_path / "captions"
    folder.mkdir()
    for name, data in contents(reference).items():
        (folder / name).write_bytes(data)
    return folder


# --------------------------------------------------------------------------------- content
def test_a_cache_gives_what_the_encoder_gives(reference):
    encoder, captions = WordEncoder(), captioned()
    cache = CaptionCache.open(reference, encoder=encoder, captions=captions)
    assert len(cache) == NUM_IMAGES
    assert cache.counts.tolist() == [len(group) for group in captions]
    rows = np.array([row for row, group in enumerate(captions) for _ in group])
    which = np.concatenate([np.arange(len(group)) for group in captions])
    order = np.random.default_rng(0).permutation(len(rows))
    expected = encoder([captions[rows[i]][which[i]] for i in order])
    found = cache.captions(rows[order], which[order])
    assert found.features.dtype == torch.bfloat16
    assert found.features.shape == (len(rows), 9, 4)
    assert torch.equal(found.features, expected.features.bfloat16())
    assert torch.equal(found.mask, expected.mask)
    assert cache.encoder["name"] == "words"


def test_layout_on_disk(reference):
    captions, encoder = captioned(), WordEncoder()
    files = contents(reference)
    index = json.loads(files.pop("index.json"))
    assert files.keys() == {"images.bin", "captions.bin", "features.bin"}
    texts = [caption for group in captions for caption in group]
    counts, lengths = [len(group) for group in captions], encoder.lengths(texts)
    firsts = np.frombuffer(files["images.bin"], "<i8")
    assert firsts.tolist() == [sum(counts[:row]) for row in range(len(counts) + 1)]
    starts = np.frombuffer(files["captions.bin"], "<i8")
    assert np.diff(starts, prepend=0).tolist() == [0, *lengths]
    raw = files["features.bin"]
    assert len(raw) == sum(lengths) * 4 * 2
    features = torch.from_numpy(np.frombuffer(raw, "<u2").copy()).view(torch.bfloat16).view(-1, 4)
    assert torch.equal(features[starts[7] : starts[8]], encoder.of(texts[7]).bfloat16())
    bounds = [8 * int(starts[min(chunk * 1024, len(texts))]) for chunk in range(4)]
    chunks = [raw[start:stop] for start, stop in itertools.pairwise(bounds)]
    assert index.pop("sha256") == [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    assert index.pop("offsets_sha256") == [
        hashlib.sha256(files[name]).hexdigest() for name in ("images.bin", "captions.bin")
    ]
    assert len(index["captions"].pop("sha256")) == 64
    assert index == {
        "version": 1,
        "complete": True,
        "encoder": {
            "width": 4,
            "num_tokens": 9,
            "most_tokens": 8,
            "precision": "fp32",
            "fingerprint": "f00d",
            "name": "words",
        },
        "captions": {"images": NUM_IMAGES, "captions": len(texts), "tokens": sum(lengths)},
        "chunk": 1024,
    }


def test_a_pickled_cache_maps_its_files_again(reference):
    cache = CaptionCache.open(reference)
    data = pickle.dumps(cache)
    assert len(data) < cache.num_bytes / 10
    rows, which = np.array([5, 900]), np.array([0, 0])
    found = pickle.loads(data).captions(rows, which)
    assert torch.equal(found.features, cache.captions(rows, which).features)


def test_a_real_encoder_is_cached(tmp_path):
    encoder = load_text_encoder(tiny_text.save_encoder(tmp_path / "bert"), num_tokens=12)
    captions = [["a star", ""], ["two red circle above a blue square"]]
    write(tmp_path / "captions", captions, encoder)
    cache = CaptionCache.open(tmp_path / "captions", encoder=encoder)
    found = cache.captions(np.array([1, 0, 0]), np.array([0, 1, 0]))
    expected = encoder(["two red circle above a blue square", "", "a star"])
    assert torch.equal(found.features, expected.features.bfloat16())
    assert torch.equal(found.mask, expected.mask)


# --------------------------------------------------------------------- ranks, interruptions
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_write_the_same_bytes(tmp_path, reference, world_size):
    write(tmp_path / "captions", world_size=world_size)
    assert contents(tmp_path / "captions") == contents(reference)


class Killed(BaseException):
    pass


def write_until(monkeypatch, folder, most):
    """Write a cache until the write to disk of that number, of which one half gets out."""
    count = 0

    def write_half(file, data):
        nonlocal count
        count += 1
        file.write(data[: len(data) // 2] if count > most else data)
        file.flush()
        if count > most:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(caption_cache, "write_durably", write_half)
        patch.setattr(durable, "write_durably", write_half)
        write(folder)


def test_a_cache_killed_within_any_write_goes_on_to_the_same_bytes(
    tmp_path, reference, monkeypatch
):
    sizes = [1024, 1024, sum(map(len, captioned())) - 2048]
    for most in range(100):
        folder = tmp_path / str(most)
        try:
            write_until(monkeypatch, folder, most)
        except Killed:
            encoder = write(folder)
            assert contents(folder) == contents(reference)
            assert encoder.encoded == sum(sizes[max(most - 3, 0) // 2 :])  # what no log has
        else:
            break
    # two files of offsets and the index, three chunks with their lines of the log, the last index
    assert most == 3 + 2 * 3 + 1


def test_a_finished_cache_is_not_written_again(folder):
    encoder, told = WordEncoder(), []
    write_captions(folder, captioned(), encoder, progress=told.append)
    assert (encoder.encoded, told) == (0, [])


def test_progress_counts_all_captions(tmp_path):
    told = []
    for rank in range(2):
        write_captions(
            *(tmp_path / "captions", captioned(), WordEncoder()),
            rank=rank,
            world_size=2,
            progress=told.append,
        )
    assert sum(told) == sum(map(len, captioned()))


def test_a_chunk_that_has_changed_is_encoded_anew(tmp_path, reference):
    folder, encoder = tmp_path / "captions", WordEncoder()
    write_captions(folder, captioned(), encoder)
    with (folder / "features.bin").open("r+b") as file:
        file.write(b"damage")
    before = encoder.encoded
    write_captions(folder, captioned(), encoder)
    assert encoder.encoded == before + 1024
    finish_captions(folder)
    assert contents(folder) == contents(reference)


# ------------------------------------------------------------------------------- bad input
OTHERS = {
    "fingerprint": ({"fingerprint": "beef"}, "fingerprint f00d", "fingerprint beef"),
    "num_tokens": ({"num_tokens": 12}, "num_tokens 9", "num_tokens 12"),
    "most_tokens": ({"most_tokens": 7}, "most_tokens 8", "most_tokens 7"),
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_encoder_is_refused_with_both_names(folder, key):
    changes, there, here = OTHERS[key]
    other = WordEncoder(name="letters", **changes)
    told = (
        f"The caption cache {folder} was made by the text encoder words ({there}), not by letters "
        f"({here}); use that one, or delete the folder and write it anew."
    )
    before = contents(folder)
    for attempt in (
        lambda: CaptionCache.open(folder, encoder=other),
        lambda: write_captions(folder, captioned(), other),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value) == told
    assert contents(folder) == before


def test_the_name_alone_may_differ(folder):
    assert CaptionCache.open(folder, encoder=WordEncoder(name="another")).encoder["name"] == "words"


def test_other_captions_are_refused(folder):
    captions = captioned()
    captions[3], captions[4] = captions[4], captions[3]
    with pytest.raises(UserError, match=r"is of other captions \(2,6.. of 1,300 images, here 2,6"):
        CaptionCache.open(folder, captions=captions)
    with pytest.raises(UserError, match="name another folder, or delete that one"):
        write_captions(folder, captioned(seed=1), WordEncoder())


def test_captions_may_not_change_their_images(folder):
    """The same captions in the same order, but one belongs to another image now."""
    captions = captioned()
    row = next(row for row in range(NUM_IMAGES) if len(captions[row]) > 1)
    captions[row + 1].insert(0, captions[row].pop())
    with pytest.raises(UserError, match="is of other captions"):
        CaptionCache.open(folder, captions=captions)


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        ([["a"], [], ["b"]], r"^Image 1 \(the first is 0\) has no caption; give it one or leave"),
        ([], "^There are no captions for .*; give at least one"),
    ],
)
def test_images_without_captions_are_told(tmp_path, captions, told):
    with pytest.raises(UserError, match=told):
        write_captions(tmp_path / "captions", captions, WordEncoder())
    assert not (tmp_path / "captions").exists()


def test_an_unfinished_cache_is_refused(tmp_path):
    write_captions(tmp_path / "captions", captioned(), WordEncoder())
    with pytest.raises(UserError, match="is unfinished; run its command again"):
        CaptionCache.open(tmp_path / "captions")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_cache.shutil, "disk_usage", lambda folder: _Usage())
    with pytest.raises(UserError, match=r"needs 0\.0 GB, its disk has only 0\.0 GB left"):
        write_captions(tmp_path / "captions", captioned(), WordEncoder())
    assert contents(tmp_path / "captions") == {}


class _Usage:
    free = 100
