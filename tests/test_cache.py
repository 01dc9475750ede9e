import functools
import hashlib
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL import cache
from MaskGIL.cache import TokenCache, cache_size, finish_cache, write_cache
from MaskGIL.data import images_hash
from MaskGIL.data.crops import all_crops, to_float
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.durable import to_json
from Network.config import UserError

SIZE, STRIDE = 8, 4
NUM_IMAGES = 600  # two full chunks and a short one


@functools.cache
def four_colours(index):
    quarters = np.random.default_rng(index).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(quarters.repeat(SIZE // 2, 0).repeat(SIZE // 2, 1))


class Colours:
    """One colour per quarter, different for each image; the rows in `broken` cannot be read."""

    classes = ("ant", "bee", "cow")

    def __init__(self, num_images=NUM_IMAGES, broken=()):
        self.labels = np.arange(num_images) % 3
        self.broken = broken

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{index}.png"

    def image(self, index):
        if index in self.broken:
            raise UnreadableImage(self.name(index), "broken")
        return four_colours(index)


class MeanTokenizer:
    """A code is the mean of a patch; `batches_left` makes it fail like a machine going down."""

    name, stride = "mean", STRIDE

    def __init__(self, codebook_size=16384, fingerprint="f00d", batches_left=10**9):
        self.codebook_size, self.fingerprint = codebook_size, fingerprint
        self.batches_left = batches_left
        self.encoded = 0

    def encode(self, images):
        if not self.batches_left:
            raise KeyboardInterrupt
        self.batches_left -= 1
        self.encoded += len(images)
        means = torch.nn.functional.avg_pool2d(images.mean(1), self.stride)
        return ((means + 1) / 2 * (self.codebook_size - 1)).round().long()


def bad_files(folder, images, max_bad=0.001):
    return BadFiles(folder / "bad_files.txt", len(images), max_bad)


def write(folder, images=None, tokenizer=None, *, world_size=1, max_bad=0.001, **changes):
    images = images or Colours()
    tokenizer = tokenizer or MeanTokenizer()
    options = {"crops": "flip", "image_size": SIZE} | changes
    for rank in range(world_size):
        bad = bad_files(folder.parent, images, max_bad)
        ranks = {"rank": rank, "world_size": world_size}
        write_cache(folder, images, tokenizer, bad=bad, **ranks, **options)
    finish_cache(folder, images, bad_files(folder.parent, images, max_bad))
    return tokenizer


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "cache"
    write(folder)
    return folder


@pytest.fixture
def folder(tmp_path, reference):
    """A copy of the reference to be damaged."""
    (tmp_path / "cache").mkdir()
    for name, data in contents(reference).items():
        (tmp_path / "cache" / name).write_bytes(data)
    return tmp_path / "cache"


def sentence(*arguments, **options):
    with pytest.raises(UserError) as error:
        TokenCache.open(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------ contents
@pytest.mark.parametrize(("crops", "num_crops"), [("center", 1), ("flip", 2), ("ten", 10)])
def test_every_crop_has_the_tokens_of_its_pixels(tmp_path, crops, num_crops):
    images, tokenizer = Colours(30), MeanTokenizer()
    write(tmp_path / "cache", images, crops=crops)
    found = TokenCache.open(tmp_path / "cache", tokenizer=tokenizer, classes=images.classes)
    assert (len(found), found.grid, found.num_crops) == (30, (2, 2), num_crops)
    assert found.codebook_size == 16384
    assert found.classes == ["ant", "bee", "cow"]
    np.testing.assert_array_equal(found.labels, images.labels)
    for row in (0, 13, 29):
        expected = tokenizer.encode(to_float(all_crops(images.image(row), crops, SIZE)))
        tokens = found.tokens(np.full(num_crops, row), np.arange(num_crops))
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens, expected)
    both = found.tokens(np.array([29, 0]), np.array([num_crops - 1, 0]))
    assert torch.equal(both[:1], found.tokens(np.array([29]), np.array([num_crops - 1])))


def test_layout_on_disk(reference):
    index = json.loads((reference / "index.json").read_bytes())
    assert sorted(contents(reference)) == ["index.json", "labels.bin", "tokens-2x2.bin"]
    raw = (reference / "tokens-2x2.bin").read_bytes()
    (part,) = index.pop("parts")
    hashes = part.pop("sha256")
    row = 2 * 2 * 2 * 2  # crops, h, w, bytes
    chunks = [raw[start : start + 256 * row] for start in range(0, 600 * row, 256 * row)]
    assert hashes == [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    expected = {"file": "tokens-2x2.bin", "grid": [2, 2], "rows": 600, "crops": 2, "chunk": 256}
    assert part == expected
    labels = np.frombuffer((reference / "labels.bin").read_bytes(), "<i4")
    assert labels.tolist() == [0, 1, 2] * 200
    assert index.pop("labels_sha256") == hashlib.sha256(labels.tobytes()).hexdigest()
    assert len(index.pop("classes_sha256")) == 64
    assert index == {
        "version": 2,
        "complete": True,
        "dtype": "<u2",
        "tokenizer": {"name": "mean", "fingerprint": "f00d", "codebook_size": 16384},
        "transform": {"image_size": 8, "crops": "flip", "encode_batch": 64, "precision": "fp32"},
        "images": {"number of images": 600, "hash of their names": images_hash(Colours())},
        "classes": {"ant": 0, "bee": 1, "cow": 2},
        "skipped": 0,
    }


@pytest.mark.parametrize(("codebook_size", "width"), [(65_536, 2), (65_537, 4), (2**18, 4)])
def test_large_codebooks_take_four_bytes(tmp_path, codebook_size, width):
    images, tokenizer = Colours(3), MeanTokenizer(codebook_size)
    images.image = lambda row: Image.new("RGB", (SIZE, SIZE), "white")
    write(tmp_path / "cache", images, tokenizer, crops="center")
    assert (tmp_path / "cache" / "tokens-2x2.bin").stat().st_size == 3 * 4 * width
    found = TokenCache.open(tmp_path / "cache")
    assert (found.tokens(np.arange(3), np.zeros(3, int)) == codebook_size - 1).all()


def test_size_is_announced_exactly(reference):
    on_disk = sum(len(data) for name, data in contents(reference).items() if name != "index.json")
    assert cache_size(600, 2, (2, 2), 16384) == on_disk
    # DESIGN: ten-crop ImageNet is 6.6 GB
    assert cache_size(1_281_167, 10, (16, 16), 16384) == pytest.approx(6.6e9, rel=0.01)
    assert cache_size(1, 1, (1, 1), 65_537) == 8


# ------------------------------------------------------------------------------ same every time
@pytest.mark.parametrize("options", [{}, {"world_size": 2}, {"world_size": 5}, {"workers": 2}])
def test_bytes_depend_on_neither_ranks_nor_workers(tmp_path, reference, options):
    state = torch.get_rng_state()
    write(tmp_path / "cache", **options)
    assert contents(tmp_path / "cache") == contents(reference)
    assert torch.equal(torch.get_rng_state(), state)  # and it draws no global random number


def test_a_changed_record_counts_for_nothing(tmp_path, reference):
    target = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write(target, tokenizer=MeanTokenizer(batches_left=8))
    log = target / "chunks-0.jsonl"
    line = log.read_bytes()
    position = line.index(b"[]")
    log.write_bytes(line[:position] + b"[7]" + line[position + 2 :])  # as if row 7 were unreadable
    assert write(target).encoded == 600 * 2
    assert contents(target) == contents(reference)


@pytest.mark.parametrize("batches_left", [0, 8, 11])
@pytest.mark.parametrize("world_size", [1, 2])
def test_interrupted_writing_goes_on(tmp_path, reference, batches_left, world_size):
    target = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write(target, tokenizer=MeanTokenizer(batches_left=batches_left))
    assert "is unfinished; run its command again." in sentence(target)
    done = batches_left // 8  # chunks: 256 images x 2 crops = 8 batches of 64
    seen = []
    rerun = write(target, world_size=world_size, progress=seen.append)
    assert rerun.encoded == (600 - 256 * done) * 2
    assert sorted(seen) == [88, 256, 256]
    assert contents(target) == contents(reference)


def test_lost_bytes_and_torn_logs_are_redone(tmp_path, reference):
    target = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write(target, tokenizer=MeanTokenizer(batches_left=16))  # two chunks are done
    with (target / "tokens-2x2.bin").open("r+b") as file:
        file.write(b"\0" * 100)
    log = target / "chunks-0.jsonl"
    log.write_bytes(log.read_bytes() + log.read_bytes()[:90])
    assert write(target).encoded == (600 - 256) * 2
    assert contents(target) == contents(reference)


def test_a_complete_cache_is_not_written_again(folder):
    before = contents(folder)
    assert write(folder).encoded == 0
    assert contents(folder) == before


def test_a_missing_rank_is_noticed(tmp_path):
    images = Colours()
    bad = bad_files(tmp_path, images)
    options = {"crops": "flip", "image_size": SIZE, "bad": bad, "world_size": 2}
    write_cache(tmp_path / "cache", images, MeanTokenizer(), rank=1, **options)
    with pytest.raises(AssertionError, match=r"has every rank returned"):
        finish_cache(tmp_path / "cache", images, bad)
    assert "unfinished" in sentence(tmp_path / "cache")


# ------------------------------------------------------------------------------- skipped files
def test_unreadable_files_become_label_minus_one(tmp_path, reference):
    images = Colours(broken=(5, 300))
    for world_size in (1, 2):
        target = tmp_path / str(world_size) / "cache"
        target.parent.mkdir()
        write(target, images, world_size=world_size, max_bad=0.01)
        assert (target.parent / "bad_files.txt").read_text() == "5.png\tbroken\n300.png\tbroken\n"
    assert contents(tmp_path / "1" / "cache") == contents(tmp_path / "2" / "cache")
    found, whole = TokenCache.open(target), TokenCache.open(reference)
    assert np.flatnonzero(found.labels == -1).tolist() == [5, 300]
    assert json.loads((target / "index.json").read_bytes())["skipped"] == 2
    rows = np.delete(np.arange(600), [5, 300])
    crops = np.ones_like(rows)
    assert torch.equal(found.tokens(rows, crops), whole.tokens(rows, crops))
    assert not found.tokens(np.array([5, 300]), np.array([0, 1])).any()


def test_the_list_names_what_an_earlier_run_skipped(tmp_path):
    images = Colours(broken=(5, 300))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", images, MeanTokenizer(batches_left=9), max_bad=0.01)
    (tmp_path / "bad_files.txt").unlink()  # as if that run had another folder
    write(tmp_path / "cache", images, max_bad=0.01)
    listed = (tmp_path / "bad_files.txt").read_text()
    assert listed == "300.png\tbroken\n5.png\tunreadable when it was its turn\n"


def test_too_many_unreadable_files(tmp_path):
    images = Colours(broken=(5, 300))  # one in each of two ranks: only together too many
    message = r"^2 of 600 images cannot be read \(limit data.max_bad=0.002\); mend or remove"
    with pytest.raises(UserError, match=message):
        write(tmp_path / "cache", images, world_size=2, max_bad=0.002)
    assert write(tmp_path / "cache", images, max_bad=0.004).encoded == 0  # a higher limit goes on
    assert len(TokenCache.open(tmp_path / "cache")) == 600


def test_tokens_are_of_float32_whatever_surrounds(tmp_path):
    class Watched(MeanTokenizer):
        def encode(self, images):
            assert not torch.is_autocast_enabled("cpu")
            return super().encode(images)

    with torch.autocast("cpu", torch.bfloat16):
        assert write(tmp_path / "cache", Colours(3), Watched()).encoded == 6


def test_tokens_of_bfloat16_when_asked(tmp_path):
    class Watched(MeanTokenizer):
        def encode(self, images):
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert torch.is_autocast_enabled("cpu")
            return super().encode(images)

    write(tmp_path / "cache", Colours(3), Watched(), precision="bf16")
    index = json.loads((tmp_path / "cache" / "index.json").read_bytes())
    assert index["transform"]["precision"] == "bf16"
    with pytest.raises(UserError, match="transform: precision is bf16 there and fp32 here"):
        write(tmp_path / "cache", Colours(3))


def test_a_matrix_product_may_be_coarse_around_but_not_within():
    seen = []
    tokenizer = MeanTokenizer()
    tokenizer.encode = lambda images: seen.append(
        (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    )
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        cache.encode_crops(tokenizer, torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert seen == [("highest", False)]
    assert torch.backends.cudnn.allow_tf32 == before[1]


def test_a_cache_without_precision_counts_as_float32(tmp_path, reference):
    target = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write(target, tokenizer=MeanTokenizer(batches_left=9))
    index = json.loads((target / "index.json").read_bytes())
    del index["transform"]["precision"]
    (target / "index.json").write_bytes(to_json(index))
    with pytest.raises(UserError, match="transform: precision is fp32 there and bf16 here"):
        write(target, precision="bf16")
    assert write(target).encoded == (600 - 256) * 2
    assert contents(target) == contents(reference)


# ------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(("byte", "chunk"), [(0, 0), (256 * 16 - 1, 0), (256 * 16, 1), (-1, 2)])
def test_one_flipped_bit_is_found(folder, byte, chunk):
    data = bytearray((folder / "tokens-2x2.bin").read_bytes())
    data[byte] ^= 4
    (folder / "tokens-2x2.bin").write_bytes(data)
    assert f"tokens-2x2.bin is damaged in chunk {chunk} (sha256 differs)" in sentence(folder)
    assert len(TokenCache.open(folder, verify=False)) == 600
    (folder / "labels.bin").write_bytes(bytes(4 * 600))
    assert "labels.bin is damaged (sha256 differs)" in sentence(folder, verify=False)


@pytest.mark.parametrize("name", ["tokens-2x2.bin", "labels.bin"])
def test_truncated_or_missing_file(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-7])
    assert f"{name} has {len(data) - 7} bytes, not {len(data)}" in sentence(folder, verify=False)
    (folder / name).unlink()
    assert f"{name} has 0 bytes" in sentence(folder)


def change_index(folder, change):
    index = json.loads((folder / "index.json").read_bytes())
    change(index)
    (folder / "index.json").write_bytes(to_json(index))


def test_labels_beyond_the_classes_are_refused_whatever_their_hash(folder):
    for label in (3, -2):
        labels = np.full(600, label, "<i4")
        (folder / "labels.bin").write_bytes(labels.tobytes())
        digest = hashlib.sha256(labels.tobytes()).hexdigest()
        change_index(folder, lambda index, digest=digest: index.update(labels_sha256=digest))
        found = sentence(folder, verify=False)
        assert f"labels.bin has labels from {label} to {label}, but index.json 3 classes" in found


def test_tokens_beyond_the_codebook_are_refused_whatever_their_hash(folder):
    path = folder / "tokens-2x2.bin"
    codes = np.frombuffer(path.read_bytes(), "<u2").copy()
    codes[-1] = 16384  # of the third chunk; codes are 0 to 16383
    path.write_bytes(codes.tobytes())
    digest = hashlib.sha256(codes[512 * 8 :].tobytes()).hexdigest()
    change_index(folder, lambda index: index["parts"][0]["sha256"].__setitem__(2, digest))
    expected = "has token 16384 in chunk 2, outside of the codebook of 16384; delete the folder"
    assert expected in sentence(folder)


def test_another_tokenizer_or_other_classes(folder):
    swapped = sentence(folder, classes=["ant", "cow", "bee"])
    assert "another list of classes: cow is 2 there and 1 here" in swapped
    text = sentence(folder, tokenizer=MeanTokenizer(fingerprint="beef"))
    assert "was made for another tokenizer: fingerprint is f00d there and beef here" in text
    renamed = MeanTokenizer()
    renamed.name = "other"
    assert len(TokenCache.open(folder, tokenizer=renamed)) == 600  # only the weights count


def test_resume_with_something_else_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", tokenizer=MeanTokenizer(batches_left=9))
    before = contents(tmp_path / "cache")
    fewer = Colours()
    fewer.classes = ("ant", "bee")
    renamed = Colours()
    renamed.name = lambda row: f"other/{row}.png"
    for options, difference in [
        ({"tokenizer": MeanTokenizer(fingerprint="beef")}, "fingerprint is f00d there and beef"),
        ({"crops": "ten"}, "transform: crops is flip there and ten here"),
        ({"image_size": 16}, "transform: image_size is 8 there and 16 here"),
        ({"encode_batch": 32}, "transform: encode_batch is 64 there and 32 here"),
        ({"images": fewer}, "list of classes: cow is 2 there and None here"),
        ({"images": Colours(599)}, "data set: number of images is 600 there and 599 here"),
        ({"images": renamed}, "data set: hash of their names is "),
    ]:
        with pytest.raises(UserError, match=difference):
            write(tmp_path / "cache", **options)
    assert contents(tmp_path / "cache") == before


def test_an_index_of_another_layout_is_not_written_to(tmp_path):
    target = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        write(target, tokenizer=MeanTokenizer(batches_left=9))
    change_index(target, lambda index: index["parts"][0].update(rows=10))
    before = contents(target)
    with pytest.raises(UserError, match="another layout: rows is 10 there and 600 here"):
        write(target)
    assert contents(target) == before  # else the tokens would be cut to ten rows


def test_full_disk_is_noticed_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    tokenizer = MeanTokenizer()
    with pytest.raises(UserError, match=r"needs 0.0 GB, its disk has only 0.0 GB left"):
        write(tmp_path / "cache", tokenizer=tokenizer)
    assert tokenizer.encoded == 0


def test_a_spawned_worker_maps_the_files_itself(reference):
    cache = TokenCache.open(reference)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 4096  # 600 rows would be 9,600 bytes of tokens
    rows = np.arange(600)
    assert pickle.loads(pickled).tokens(rows, rows % 2).equal(cache.tokens(rows, rows % 2))
