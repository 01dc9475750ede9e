import numpy as np
import pytest
import torch
from tiny_runs import config, image_folder, tokenizer_weights, tree, words

import main as program
from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import read_index
from MaskGIL.command import run_command
from MaskGIL.data import open_images
from MaskGIL.data.crops import crop_image, to_float
from MaskGIL.weights import open_tokenizer
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.generator_data import has_cache, write_caches
from Trainer.tokens import cache_folder, cached_tokens, describe_cache

FLIPS = "data.crops=flip"


@pytest.fixture
def folder(tmp_path):
    return tokenizer_weights(tmp_path)


def opened(config, split="train"):
    return open_images(config.data, split), open_tokenizer(config.tokenizer)


def test_tokens_are_what_the_tokenizer_makes_of_each_crop(folder):
    run = config("generator", folder, FLIPS)
    images, tokenizer = opened(run)
    cache = cached_tokens(run, images, tokenizer, "train")
    assert (len(cache), cache.num_crops, cache.grid) == (64, 2, (4, 4))
    for row in (0, 40):
        crops = [crop_image(images.image(row), "flip", crop, 32) for crop in (0, 1)]
        with torch.no_grad():
            expected = tokenizer.encode(to_float(torch.stack(crops)))
        assert torch.equal(cache.tokens(np.array([row, row]), np.array([0, 1])), expected)


def test_validation_images_have_one_crop(folder):
    run = config("generator", folder, FLIPS)
    cache = cached_tokens(run, *opened(run, "val"), "val")
    assert (len(cache), cache.num_crops) == (256, 1)


def test_it_is_written_once(folder, capsys):
    run = config("generator", folder)
    cached_tokens(run, *opened(run), "train")
    path = folder / "generator" / "cache" / "train"
    assert capsys.readouterr().out == (
        f"cache      64 images x 1 crop -> 4x4 tokens, 2.3 kB in {path}\n"
    )
    before = tree(folder)
    cached_tokens(run, *opened(run), "train")
    assert tree(folder) == before
    assert capsys.readouterr().out == ""


def test_the_announced_size_is_that_of_the_files(folder):
    run = config("generator", folder, FLIPS)
    images, tokenizer = opened(run)
    cached_tokens(run, images, tokenizer, "train")
    size = sum(path.stat().st_size for path in cache_folder(run, "train").glob("*.bin"))
    assert size == 64 * (2 * 16 * 2 + 4)  # crops x tokens x uint16, and a label of int32
    assert f"{size / 1000:.1f} kB in" in describe_cache(run, images, tokenizer, "train")


def test_the_job_cache_writes_both_splits_and_nothing_else(folder):
    run = config("generator", folder, "job=cache", f"data.cache={folder / 'elsewhere'}")
    before = tree(folder)
    assert not has_cache(run)
    write_caches(run)
    assert has_cache(run)
    new = {path for path in tree(folder) if path not in before}
    assert {path.parent for path in new} == {folder / "elsewhere" / s for s in ("train", "val")}
    for split, count in (("train", 64), ("val", 256)):
        assert len(TokenCache.open(cache_folder(run, split))) == count


def test_an_unfinished_cache_is_none(folder):
    run = config("generator", folder)
    write_caches(run)
    index = cache_folder(run, "val") / "index.json"
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    assert not has_cache(run)


def test_another_tokenizer_is_refused(folder, tmp_path):
    run = config("generator", folder)
    write_caches(run)
    other = tokenizer_weights(tmp_path / "other", seed=1)
    run = config("generator", other, f"out_dir={folder / 'generator'}")
    with pytest.raises(UserError, match="was made for another tokenizer: fingerprint is"):
        cached_tokens(run, *opened(run), "train")


def test_other_classes_are_refused(folder, tmp_path):
    source = ("data.source=folder", "network.num_classes=2", "data.num_images=8")
    photos, paintings = tmp_path / "photos", tmp_path / "paintings"
    image_folder(photos, ("cat", "dog"))
    image_folder(paintings, ("cat", "cow"))
    run = config("generator", folder, *source, f"data.path={photos}")
    cached_tokens(run, *opened(run), "train")
    run = config("generator", folder, *source, f"data.path={paintings}")
    with pytest.raises(UserError, match="was made for another list of classes: cow is None there"):
        cached_tokens(run, *opened(run), "train")


def test_another_precision_is_refused(folder):
    run = config("generator", folder, "data.cache_precision=bf16")
    cached_tokens(run, *opened(run), "train")
    assert read_index(cache_folder(run, "train"))["transform"]["precision"] == "bf16"
    run = config("generator", folder)
    with pytest.raises(UserError, match="another transform: precision is bf16 there and fp32 here"):
        cached_tokens(run, *opened(run), "train")


def test_an_unreadable_file_is_named_and_never_sampled(folder, tmp_path, capsys):
    images = image_folder(tmp_path / "images")
    (images / "train" / "dog" / "3.png").write_text("no picture")
    source = ("data.source=folder", f"data.path={images}", "data.max_bad=0.1")
    run = config("generator", folder, *source, "network.num_classes=2")
    cache = cached_tokens(run, *opened(run), "train")
    assert cache.labels.tolist() == [0] * 8 + [1, 1, 1, -1, 1, 1, 1, 1]
    (line,) = (folder / "generator" / "bad_files.txt").read_text().splitlines()
    assert line.startswith("train/dog/3.png\tnot an image of the formats JPEG")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"unreadable 1 of 16 images, listed in {folder / 'generator' / 'bad_files.txt'}"
    cached_tokens(run, *opened(run), "train")
    assert capsys.readouterr().out == ""  # told once, by the run that has the list


def command(folder, *changes):
    argv = [*words("generator", folder), "job=cache", *changes]
    return run_command(program.main, RunConfig, argv, program="main.py", about="")


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
def test_a_size_without_grid_ends_the_command(folder, capsys, flag):
    before = tree(folder)
    assert command(folder, "data.image_size=36", *flag) == 2
    error = capsys.readouterr().err
    assert error == "error: data.image_size=36 is no multiple of 8, the stride of the tokenizer.\n"
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("tokens-4x4.bin", lambda data: data[:-1], "has 2047 bytes, not 2048; delete the folder"),
        ("tokens-4x4.bin", lambda data: b"\1" + data[1:], "is damaged in chunk 0"),
        ("labels.bin", lambda data: b"", "has 0 bytes, not 256; delete the folder"),
        ("index.json", lambda data: data[: len(data) // 2], "is not JSON"),
        ("index.json", lambda data: data.replace(b"rows", b"row"), "is damaged at parts.0.rows"),
        ("index.json", lambda data: data.replace(b": 2,", b": 7,", 1), "has version 7, not 2"),
    ],
)
def test_a_damaged_cache_ends_the_command(folder, capsys, name, change, text):
    assert command(folder) == 0
    path = cache_folder(config("generator", folder), "train") / name
    path.write_bytes(change(path.read_bytes()))
    before = tree(folder)
    capsys.readouterr()
    assert command(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} ")
    assert text in error
    assert error.count("\n") == 1
    assert tree(folder) == before
