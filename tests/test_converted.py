"""From tokens of others to a trained generator, as a user goes: `convert`, then main.py."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from test_foreign_tokens import random_tokens, write_folders, write_lines
from tiny_runs import (
    CODES,
    config,
    hashes,
    image_folder,
    losses,
    records,
    run_ranks,
    tokenizer_weights,
    train,
    tree,
    words,
)

import main as program
from MaskGIL.__main__ import main as maskgil
from MaskGIL.cache import TokenCache
from MaskGIL.command import run_command
from MaskGIL.weights import load_weights
from Trainer.config import RunConfig
from Trainer.vit import GeneratorTrainer

ROWS, CROPS, HELD_OUT = 32, 10, 4
CLASSES = ("cat", "dog")
LABELS = np.arange(ROWS) % 2
ALONE = ("data.source=tokens", "network.num_classes=2", "precision=fp32", "data.crops=flip")


def convert(folder, source, split):
    (folder / "names.txt").write_text("\n".join(CLASSES))
    argv = ["convert", source, folder / "c" / split, f"tokenizer={folder / 'weights'}"]
    assert maskgil([*map(str, argv), f"classes={folder / 'names.txt'}"]) == 0


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A folder with weights of a tokenizer, and c/train of ten random crops a row."""
    folder = tokenizer_weights(tmp_path_factory.mktemp("converted"))
    tokens = random_tokens(ROWS, CROPS, 16, CODES)
    convert(folder, write_folders(folder / "llamagen", tokens, LABELS), "train")
    return folder


@pytest.fixture
def folder(converted, tmp_path):
    for name in ("weights", "c"):
        shutil.copytree(converted / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def pictures(folder):
    """Photos to validate on; those to train on must not be needed."""
    images = image_folder(folder / "photos", CLASSES)
    for file in (images / "train").glob("*/*"):
        file.write_bytes(b"")
    return ["data.source=folder", f"data.path={images}", *ALONE[1:]]


@pytest.fixture
def run(folder, capsys):
    """main.py on the converted cache; returns exit status, output, errors."""

    def run(*changes):
        argv = [*words("generator", folder), f"data.cache={folder / 'c'}", *changes]
        code = run_command(program.main, RunConfig, argv, program="main.py", about="")
        return code, *capsys.readouterr()

    return run


def trainer_of(folder, *changes):
    trainer = GeneratorTrainer(config("generator", folder, f"data.cache={folder / 'c'}", *changes))
    trainer.prepare()
    return trainer


def drawn_tokens(trainer, steps):
    """Every sequence (n, 16) that these steps train on, as bytes."""
    batches = [trainer.dataset()[step]["tokens"] for step in range(steps)]
    return {sequence.tobytes() for sequence in torch.cat(batches).numpy()}


# Tokens alone


def test_tokens_alone_are_enough(run, folder):
    before = tree(folder / "c")
    every = ("loop.steps=2", "loop.validate_every=2", "loop.sample_every=2")
    code, out, err = run(*ALONE, *every)
    assert (code, err) == (0, "")
    assert "28 images of 2 classes, cached as 10.2 kB; 4 more, held out, validate\n" in out
    (record,) = records(folder / "generator", "validation")
    assert 0 < record["loss"] < 10
    assert (folder / "generator/samples/step-0000002.png").exists()
    assert load_weights(folder / "generator/weights").classes == list(CLASSES)
    assert tree(folder / "c") == before
    assert not (folder / "generator/cache").exists()


def test_every_crop_of_every_row_is_drawn_but_of_those_held_out(folder):
    trainer = trainer_of(folder, *ALONE)
    everything = random_tokens(ROWS, CROPS, 16, CODES)
    held = np.linspace(0, ROWS - 1, HELD_OUT).astype(int)
    rest = np.delete(everything, held, axis=0)
    expected = {codes.tobytes() for codes in rest.reshape(-1, 16)}
    assert drawn_tokens(trainer, 200) == expected  # 3,200 draws of 280 sequences
    ((tokens, labels),) = trainer.source.validation
    assert np.array_equal(tokens.flatten(1).numpy(), everything[held, 0])
    assert labels.tolist() == LABELS[held].tolist()


def test_a_cache_of_validation_tokens_takes_their_place(folder):
    lines = random_tokens(6, 1, 16, CODES) // 2
    convert(folder, write_lines(folder / "val.jsonl", lines, [0, 1] * 3), "val")
    trainer = trainer_of(folder, *ALONE)
    assert (len(trainer.images), len(trainer.validation_images)) == (ROWS, 6)
    assert np.array_equal(trainer.source.validation[0][0].flatten(1).numpy(), lines[:, 0])
    assert "6 images validate" in trainer.facts()["data"]


def test_a_run_goes_on_exactly(folder):
    shaken = (*ALONE, "network.dropout=0.1", f"data.cache={folder / 'c'}", "loop.save_every=2")
    shaken = (*shaken, "loop.steps=6", "loop.validate_every=3")
    train("generator", folder, *shaken, f"out_dir={folder / 'whole'}")
    halves = (*shaken, f"out_dir={folder / 'halves'}", "data.workers=1")
    train("generator", folder, *halves, stop=4)
    train("generator", folder, *halves)
    assert hashes(folder / "halves", 6) == hashes(folder / "whole", 6)
    assert records(folder / "halves", "validation") == records(folder / "whole", "validation")


@pytest.mark.slow
def test_two_ranks_lose_what_one_loses(folder):
    changes = (*ALONE, f"data.cache={folder / 'c'}", "loop.steps=4")
    job = partial(train, "generator", folder, *changes)
    job(f"out_dir={folder / 'one'}")
    run_ranks(2, [partial(job, f"out_dir={folder / 'two'}")])
    torch.testing.assert_close(losses(folder / "two"), losses(folder / "one"), atol=1e-4, rtol=0)


def test_other_tokens_are_not_gone_on_with(run, folder):
    assert run(*ALONE, "loop.steps=1")[0] == 0
    shutil.rmtree(folder / "c/train")
    other = (random_tokens(ROWS, CROPS, 16, CODES) + 1) % CODES
    convert(folder, write_folders(folder / "other", other, LABELS), "train")
    code, _, err = run(*ALONE, "loop.steps=2")
    assert code == 2
    assert f"{folder / 'generator'} was trained with sha256 of tokens " in err


# Pictures beside them


def test_pictures_validate_and_are_scored(run, folder, pictures):
    before = tree(folder / "c/train")
    every = ("loop.steps=2", "loop.validate_every=2", "loop.score_every=2")
    code, out, err = run(*pictures, *every)
    assert (code, err) == (0, "")
    assert "32 images of 2 classes, cached as 10.2 kB; 8 images validate\n" in out
    (score,) = records(folder / "generator", "score")
    assert (score["images"], score["distance"] > 0) == (8, True)
    assert records(folder / "generator", "validation")
    assert tree(folder / "c/train") == before
    written = TokenCache.open(folder / "c/val")
    assert (len(written), written.num_crops) == (8, 1)
    assert drawn_tokens(trainer_of(folder, *pictures), 200) == {
        codes.tobytes() for codes in random_tokens(ROWS, CROPS, 16, CODES).reshape(-1, 16)
    }


def test_pictures_of_other_classes_are_refused(run, folder):
    images = image_folder(folder / "paintings", ("cat", "cow"))
    before = tree(folder)
    code, _, err = run("data.source=folder", f"data.path={images}", *ALONE[1:])
    assert code == 2
    assert "was made for another list of classes: cow is None there and 1 here" in err
    assert tree(folder) == before


# What a run would take


def test_a_dry_run_reads_the_cache_and_writes_nothing(run, folder, pictures):
    before = tree(folder)
    for source in (ALONE, pictures):
        code, out, err = run(*source, "--dry-run")
        assert (code, err) == (0, "")
        assert "one batch        tokens (16, 4, 4), rows (16,), labels (16,)" in out
        assert "encoded" not in out
        code, out, err = run(*source, "job=cache", "--dry-run")
        assert (code, err) == (0, "")
        assert f" images, read from {folder / 'c/train'} as they are\n" in out
        assert ("complete: nothing to do" in out) == (source is ALONE)
    assert tree(folder) == before


def test_the_job_cache_writes_what_is_missing(run, folder, pictures):
    before = tree(folder)
    assert run(*ALONE, "job=cache")[0] == 0
    assert tree(folder) == before
    assert run(*pictures, "job=cache")[0] == 0
    assert {path.parent for path in tree(folder) if path not in before} == {folder / "c/val"}


# Mistakes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["loop.score_every=5"],
            "loop.score_every=5 compares with validation images, and data.source=tokens has none; "
            "use loop.score_every=0.",
        ),
        (
            ["data.tokens=online"],
            "data.source=tokens has no pictures, only the token cache of a generator, "
            "job=generator data.tokens=cache; name another data.source.",
        ),
        (
            ["data.image_size=64", "network.grid=8,8"],
            "The token cache HERE/c/train was made for another size: image_size is 32 there and "
            "64 here; choose another data.cache or delete this one.",
        ),
        (
            ["network.num_classes=3"],
            "Data has 2 classes, network.num_classes is 3. Use network.num_classes=2 or other "
            "data.",
        ),
        (
            ["data.cache=HERE/none"],
            "No token cache in HERE/none/train: index.json is missing; write the cache first.",
        ),
    ],
)
@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
def test_mistakes_are_one_sentence(run, folder, changes, sentence, flag):
    before = tree(folder)
    code, _, err = run(*ALONE, *(word.replace("HERE", str(folder)) for word in changes), *flag)
    assert (code, err) == (2, f"error: {sentence}\n".replace("HERE", str(folder)))
    assert tree(folder) == before


def test_a_tokenizer_needs_pictures(run):
    code, _, err = run("data.source=tokens", "job=tokenizer")
    assert code == 2
    assert err.startswith("error: data.source=tokens has no pictures")


def test_tokens_of_another_tokenizer_are_refused(run, folder):
    other = tokenizer_weights(folder / "other", seed=1)
    code, _, err = run(*ALONE, f"tokenizer.weights={other / 'weights'}")
    assert code == 2
    assert "was made for another tokenizer: fingerprint is" in err


def test_a_flipped_bit_is_found(run, folder):
    file = folder / "c/train/tokens-4x4.bin"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    code, _, err = run(*ALONE)
    assert code == 2
    assert err.startswith(f"error: {file} is damaged in chunk 0")
    assert not (folder / "generator").exists()
