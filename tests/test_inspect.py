import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_foreign_tokens import random_tokens, write_folders
from tiny_runs import tree
from tiny_text import text_network
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.cache import TokenCache, finish_cache, write_cache
from MaskGIL.data.crops import to_uint8
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.shapes import CLASSES, Shapes
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import load_tokenizer, load_weights, save_weights
from Network.tokenizer import NAMED


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder: weights/ and cache/train/ of 40 shapes."""
    folder = tmp_path_factory.mktemp("run")
    save_tiny_weights(folder / "weights")
    images, tokenizer = Shapes("train", 40, (SIDE, SIDE)), load_tokenizer(folder / "weights")
    bad = BadFiles(folder / "bad_files.txt", len(images), 0)
    cache = folder / "cache/train"
    write_cache(cache, images, tokenizer, crops="flip", image_size=SIDE, bad=bad)
    finish_cache(cache, images, bad)
    return folder


@pytest.fixture
def inspect(capsys):
    def inspect(*words):
        code = main(["inspect", *map(str, words)])
        return code, *capsys.readouterr()

    return inspect


def test_weights(inspect, run):
    code, out, err = inspect(run / "weights")
    assert (code, err) == (0, "")
    weights = load_weights(run / "weights")
    assert weights.network is not None
    count = sum(p.numel() for p in weights.network.parameters())
    assert f"network      gpt, {count:,} parameters" in out
    assert "2 blocks, width 32, 2 heads" in out
    assert "tokens       8x8 of 11 codes" in out
    assert "classes      16: red circle, green circle, " in out
    assert "num_steps=4, schedule=arccos" in out
    assert f"fingerprint {weights.tokenizer.fingerprint[:16]}" in out


def test_weights_of_prompts_name_their_text_encoder(inspect, tmp_path):
    network, text = text_network(), TextOrigin("flan-t5-xl", "bf16", "ab12")
    for name, origin in {"told": text, "untold": None}.items():
        save_weights(tmp_path / name, tiny.tokenizer(), network=network, text=origin)
    told, untold = (inspect(tmp_path / name)[1] for name in ("told", "untold"))
    assert "captions     10 x 16 by flan-t5-xl\n" in told
    assert "captions     10 x 16 by an unknown text encoder\n" in untold
    assert "classes" not in told + untold


def test_weights_of_a_tokenizer(inspect, tmp_path):
    save_weights(tmp_path / "weights", tiny.tokenizer())
    code, out, _ = inspect(f"path={tmp_path / 'weights'}")
    assert code == 0
    assert "11 codes, 2 pixels a token" in out
    assert "network" not in out


def test_token_cache(inspect, run):
    code, out, err = inspect(run / "cache/train")
    assert (code, err) == (0, "")
    assert "images       40 in 16 classes, 0 unreadable" in out
    assert "crops        2 each (flip), 16 pixels" in out
    assert f"8x8 of 11 codes, {40 * 2 * 64 * 2:,} bytes" in out
    assert "precision    fp32\n" in out
    counts = np.bincount(Shapes("train", 40, (SIDE, SIDE)).labels, minlength=16)
    for name, count in zip(CLASSES, counts):
        line = next(line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert int(line.split()[2]) == count
        assert line.count("█") == round(40 * count / counts.max())


def test_converted_tokens_say_that_their_precision_is_unknown(inspect, run, tmp_path):
    source = write_folders(tmp_path / "llamagen", random_tokens(3, 10, 64), [0, 1, 1])
    words = ("convert", source, tmp_path / "cache", f"tokenizer={run / 'weights'}")
    assert main([*map(str, words)]) == 0
    code, out, _ = inspect(tmp_path / "cache")
    assert code == 0
    assert "crops        10 each (llamagen), 16 pixels\n" in out
    assert "precision    unknown: the tokens were converted, and their source does not say\n" in out


def test_images_of_a_cache(inspect, run, tmp_path):
    picture = tmp_path / "new/grid.png"
    words = [f"tokenizer={run / 'weights'}", f"out={picture}", "num_images=5"]
    code, out, _ = inspect(run / "cache/train", *words)
    assert code == 0
    assert f"{picture}: 5 images, the first crop of each, decoded" in out
    cache, tokenizer = TokenCache.open(run / "cache/train"), load_tokenizer(run / "weights")
    last = cache.tokens(np.array([39]), np.array([0]))
    with torch.inference_mode():
        expected = to_uint8(tokenizer.decode(last))[0].permute(1, 2, 0).numpy()
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (SIDE + 4, 5 * (SIDE + 2) + 2, 3)
    # The batch of five may round otherwise in the last bit
    shown = pixels[2:-2, -2 - SIDE : -2].astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_images_of_a_cache_by_a_public_tokenizer(inspect, run, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(run / "weights")
    monkeypatch.setitem(NAMED, "small", tokenizer.config)
    file, cache = run / "weights/tokenizer.safetensors", run / "cache/train"
    picture = tmp_path / "grid.png"
    code, out, _ = inspect(cache, "tokenizer=small", f"out={picture}", "--dry-run")
    assert (code, "hashes       all chunks are" in out) == (0, True)  # and nothing is fetched
    monkeypatch.setattr("MaskGIL.weights.public_file", {"small": file}.__getitem__)
    drawn = []
    for value in ("small", f"small:{file}", run / "weights"):
        assert inspect(cache, f"tokenizer={value}", f"out={picture}", "num_images=2")[0] == 0
        drawn.append(picture.read_bytes())
    assert drawn == [drawn[0]] * 3


class ManyClasses(Shapes):
    """Shapes under 40 names, the last one more often."""

    def __init__(self):
        super().__init__("train", 64, (SIDE, SIDE))
        self.classes = tuple(f"class {number:02d}" for number in range(40))
        self._pictures, self.labels = Shapes("train", 64, (SIDE, SIDE)), np.arange(64).clip(max=39)

    def image(self, index):
        return self._pictures.image(index)


class OneBroken(Shapes):
    def image(self, index):
        if index == 0:
            raise UnreadableImage(self.name(index), "broken")
        return super().image(index)


def test_unreadable_files_are_counted_and_not_drawn(inspect, run, tmp_path):
    images, cache, picture = OneBroken("train", 3, (SIDE, SIDE)), tmp_path / "c", tmp_path / "a.png"
    bad = BadFiles(tmp_path / "bad_files.txt", 3, max_bad=1)
    tokenizer = load_tokenizer(run / "weights")
    write_cache(cache, images, tokenizer, crops="center", image_size=SIDE, bad=bad)
    finish_cache(cache, images, bad)
    code, out, _ = inspect(cache, f"tokenizer={run / 'weights'}", f"out={picture}")
    assert code == 0
    assert "images       3 in 16 classes, 1 unreadable" in out
    assert f"{picture}: 2 images" in out
    assert sum(line.count("█") for line in out.splitlines()) == 2 * 40


def test_many_classes_are_cut_to_both_ends(inspect, run, tmp_path):
    images, cache = ManyClasses(), tmp_path / "cache"
    bad = BadFiles(tmp_path / "bad_files.txt", len(images), 0)
    tokenizer = load_tokenizer(run / "weights")
    write_cache(cache, images, tokenizer, crops="center", image_size=SIDE, bad=bad)
    finish_cache(cache, images, bad)
    _, out, _ = inspect(cache)
    rows = [line for line in out.splitlines() if line.startswith("  ")]
    assert rows[0].split()[:3] == ["class", "39", "25"]
    assert rows[16] == "  ... 8 more"
    assert len(rows) == 33


def test_mistakes(inspect, run, tmp_path):
    def sentence(*words):
        code, _, err = inspect(*words)
        assert code == 2
        return err.removeprefix("error: ").strip()

    assert sentence() == "path is empty; name a token cache or a weights folder."
    assert sentence(tmp_path / "none") == f"No such folder: {tmp_path / 'none'}."
    assert sentence(tmp_path) == f"{tmp_path} is neither a token cache nor a weights folder."
    assert sentence(run).endswith(f"Did you mean {run / 'weights'}?")
    assert sentence(run / "cache").endswith(f"Did you mean {run / 'cache/train'}?")
    assert "tokenizer and out belong together" in sentence(run / "cache/train", "out=a.png")
    both = ["out=a.png", f"tokenizer={run / 'weights'}"]
    assert "are for a token cache" in sentence(run / "weights", *both)
    other = save_tiny_weights(tmp_path / "other", seed=1)
    words = [f"tokenizer={other}", f"out={tmp_path / 'grid.png'}"]
    assert "was made for another tokenizer" in sentence(run / "cache/train", *words)


def replaced(name, old, new):
    def damage(folder):
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return damage


def cut(name, part):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * part)])

    return damage


def flipped(name, position):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[position] ^= 255
        (folder / name).write_bytes(data)

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (flipped("tokens-8x8.bin", 1000), "tokens-8x8.bin is damaged in chunk 0 (sha256 differs)"),
        (flipped("labels.bin", 8), "labels.bin is damaged (sha256 differs)"),
        (cut("tokens-8x8.bin", 0.5), "tokens-8x8.bin has 5120 bytes, not 10240"),
        (cut("tokens-8x8.bin", 0), "tokens-8x8.bin has 0 bytes, not 10240"),
        (cut("index.json", 0.5), "index.json is not JSON"),
        (cut("index.json", 0), "index.json is not JSON"),
        (replaced("index.json", b"transform", b"tramsform"), "index.json is damaged at transform"),
        (replaced("index.json", b'"version": 2', b'"version": 1'), "has version 1, not 2"),
        (replaced("index.json", b"true", b"false"), "is unfinished; run its command again."),
    ],
)
def test_damage_is_told(inspect, run, tmp_path, damage, text):
    folder = tmp_path / "cache"
    shutil.copytree(run / "cache/train", folder)
    damage(folder)
    before = tree(folder)
    code, out, err = inspect(folder)
    assert (code, out) == (2, "")
    assert text in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert tree(folder) == before
