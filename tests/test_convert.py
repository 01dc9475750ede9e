"""The formats of tokens themselves are in test_foreign_tokens.py."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_foreign_tokens import random_tokens, write_folders, write_lines

from MaskGIL import convert as module
from MaskGIL.__main__ import main
from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import CHUNK, read_index
from MaskGIL.convert import official_tensors
from MaskGIL.imagenet import is_imagenet
from MaskGIL.weights import load_tokenizer, save_weights
from Network import build_tokenizer
from Network.tokenizer import NAMED
from Network.tokenizer.official import official_names

SHAPES = Path(__file__).parent / "fixtures/network"
LLAMAGEN = tiny.tokenizer_config(family="llamagen")


@pytest.fixture
def convert(capsys):
    def convert(*words):
        code = main(["convert", *map(str, words)])
        return code, *capsys.readouterr()

    return convert


@pytest.fixture
def complaint(convert, tmp_path):
    """The sentence of a mistake, which leaves nothing."""

    def complaint(*words):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = convert(*words)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: .+\n", err), err
        assert sorted(tmp_path.rglob("*")) == before
        return err[len("error: ") : -1]

    return complaint


@pytest.fixture
def weights(tmp_path):
    """A weights folder of 11 codes, 2 pixels a token."""
    save_weights(tmp_path / "weights", tiny.tokenizer())
    return tmp_path / "weights"


@pytest.fixture
def small(monkeypatch):
    """A public tokenizer of few weights: its name, and itself."""
    monkeypatch.setitem(NAMED, "small", LLAMAGEN)
    return "small", tiny.fill(build_tokenizer("small"))


def write_public(file, tokenizer):
    """As LlamaGen's authors write theirs, the averages beside the last weights."""
    state = tokenizer.state_dict()
    names = official_names(state, "llamagen")
    official = {names[name]: tensor for name, tensor in state.items()}
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in official.items()}
    torch.save({"model": broken, "ema": official}, file)
    return file


# Weights


def test_a_public_file_becomes_a_folder_of_ours(convert, small, tmp_path):
    name, tokenizer = small
    file, out = write_public(tmp_path / "vq.pt", tokenizer), tmp_path / "new/weights"
    code, told, err = convert(file, out, f"tokenizer={name}")
    assert (code, err) == (0, "")
    found = load_tokenizer(out)
    assert found.fingerprint == tokenizer.fingerprint == build_tokenizer(name, file).fingerprint
    assert (found.name, found.config) == (name, LLAMAGEN)
    assert f"wrote        {out}, a weights folder and its card\n" in told
    assert f"fingerprint {tokenizer.fingerprint[:16]}" in told
    assert sorted(path.name for path in out.parent.iterdir()) == ["weights"]


def test_a_name_is_fetched(convert, small, tmp_path, monkeypatch):
    name, tokenizer = small
    file = write_public(tmp_path / "vq.pt", tokenizer)
    monkeypatch.setattr(module, "public_file", {name: file}.__getitem__)
    monkeypatch.setattr(module, "describe", "where {} lies".format)
    code, told, _ = convert(name, tmp_path / "out", "--dry-run")
    size = sum(tensor.nbytes for tensor in tokenizer.state_dict().values())
    assert (code, (tmp_path / "out").exists()) == (0, False)
    assert "would fetch  where small lies\nwould write" in told
    assert f"tokenizer    small, 11 codes, {size:,} bytes\n" in told
    assert convert(name, tmp_path / "out")[0] == 0
    assert load_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint


def test_there_and_back(convert, small, tmp_path):
    name, tokenizer = small
    save_weights(tmp_path / "ours", tokenizer)
    theirs, again = tmp_path / "new/theirs.safetensors", tmp_path / "again"
    assert convert(tmp_path / "ours", theirs, "to=official", "--dry-run")[0] == 0
    assert not theirs.parent.exists()
    code, told, _ = convert(tmp_path / "ours", theirs, "to=official")
    assert (code, told.startswith(f"wrote        {theirs}\n")) == (0, True)
    assert "decoder.conv_blocks.0.res.0.conv1.weight" in load_file(theirs)
    assert convert(theirs, again, f"tokenizer={name}")[0] == 0
    assert load_tokenizer(again).fingerprint == tokenizer.fingerprint
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llamagen-vq16", "llamagen_vq16"),
        ("llamagen-vq8", "llamagen_vq8"),
        ("chameleon-vq", "chameleon"),
        ("maskgit-vq", "maskgit_vq"),
        ("taming-f16-1024", "taming_f16_1024"),
        ("magvit2-f16", "magvit2"),
    ],
)
def test_the_authors_find_every_tensor_they_look_for(name, file):
    """Names and shapes are those of their classes (`fixtures/network/NOTES.md`)."""
    with torch.device("meta"):
        tensors = official_tensors(build_tokenizer(name))
    expected = json.loads((SHAPES / f"{file}_shapes.json").read_text("utf-8"))
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == expected.get(
        "f16",
        expected,  # Open-MAGVIT2's two are in one file
    )


# Tokens

SOURCES = {"llamagen": 3, "jsonl": 1}  # crops


def write_source(folder, form, rows=CHUNK + 3, labels=None):
    """Random tokens (rows, C, 4x4) and labels; the source, tokens and labels."""
    tokens = random_tokens(rows, SOURCES[form], 16)
    labels = np.arange(rows) % 5 if labels is None else labels
    write = {"llamagen": write_folders, "jsonl": write_lines}[form]
    return write(folder / f"source.{form}", tokens, labels), tokens, labels


@pytest.mark.parametrize("form", SOURCES)
def test_tokens_become_a_cache(convert, weights, tmp_path, form):
    source, tokens, labels = write_source(tmp_path, form)
    (tmp_path / "cache.tmp").mkdir()  # left by a kill
    (tmp_path / "cache.tmp/torn").write_text("")
    code, told, _ = convert(source, tmp_path / "cache", f"tokenizer={weights}")
    assert code == 0
    cache = TokenCache.open(tmp_path / "cache", tokenizer=load_tokenizer(weights), verify=True)
    rows, crops = (grid.ravel() for grid in np.indices(tokens.shape[:2]))
    assert np.array_equal(cache.tokens(rows, crops), tokens.reshape(-1, 4, 4))
    assert np.array_equal(cache.labels, labels)
    assert cache.classes == list("01234")
    index = read_index(tmp_path / "cache")
    assert index["transform"] == {"image_size": 8, "crops": form, "precision": "unknown"}
    assert index["images"]["number of images"] == len(tokens)
    size = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.bin"))
    assert f"images       259 of {SOURCES[form]} crops ({form})" in told
    assert f"tokens       4x4 of 11 codes, {size:,} bytes" in told
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "weights", source.name}


def test_tokens_of_a_public_tokenizer(convert, small, tmp_path, monkeypatch):
    """By its name, fetched when it is needed, or with its file: the same cache."""
    (name, tokenizer), (source, *_) = small, write_source(tmp_path, "llamagen")
    file = write_public(tmp_path / "vq.pt", tokenizer)
    monkeypatch.setattr(module, "describe", "where {} lies".format)
    code, told, _ = convert(source, tmp_path / "named", f"tokenizer={name}", "--dry-run")
    assert (code, (tmp_path / "named").exists()) == (0, False)  # nor is anything fetched
    assert "would fetch  where small lies\nwould write  " in told
    assert told.endswith("tokenizer    small\n")
    monkeypatch.setattr("MaskGIL.weights.public_file", {name: file}.__getitem__)
    for out, value in (("named", name), ("filed", f"{name}:{file}")):
        code, told, _ = convert(source, tmp_path / out, f"tokenizer={value}")
        assert code == 0
        assert told.endswith(f"tokenizer    small, fingerprint {tokenizer.fingerprint[:16]}\n")
        cache = TokenCache.open(tmp_path / out, tokenizer=tokenizer)
        assert read_index(tmp_path / out)["tokenizer"]["name"] == name
        assert len(cache) == CHUNK + 3


@pytest.mark.parametrize("form", SOURCES)
def test_a_dry_run_writes_nothing_and_tells_the_same(convert, weights, tmp_path, form):
    source, *_ = write_source(tmp_path, form)
    words = (source, tmp_path / "cache", f"tokenizer={weights}")
    _, planned, _ = convert(*words, "--dry-run")
    assert not (tmp_path / "cache").exists()
    _, done, _ = convert(*words)
    assert planned.startswith(f"would write  {tmp_path / 'cache'}, a token cache\n")
    assert planned.splitlines()[1:] == done.splitlines()[1:]


def test_the_same_source_gives_the_same_bytes(convert, weights, tmp_path):
    source, *_ = write_source(tmp_path, "jsonl")
    for name in ("one", "two"):
        assert convert(source, tmp_path / name, f"tokenizer={weights}")[0] == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


def test_inspect_reads_it(convert, weights, tmp_path, capsys):
    source, *_ = write_source(tmp_path, "llamagen")
    assert convert(source, tmp_path / "cache", f"tokenizer={weights}")[0] == 0
    words = [f"tokenizer={weights}", f"out={tmp_path / 'grid.png'}", "num_images=2"]
    assert main(["inspect", str(tmp_path / "cache"), *words]) == 0
    assert "crops        3 each (llamagen), 8 pixels" in capsys.readouterr().out


def test_names_of_classes(convert, weights, tmp_path):
    source, *_ = write_source(tmp_path, "jsonl", rows=2, labels=[0, 1])
    names = tmp_path / "names.txt"
    names.write_text("Ωμέγα\nred circle\nnone of them\n", "utf-8")
    words = (source, tmp_path / "cache", f"tokenizer={weights}")
    assert convert(*words, f"classes={names}")[0] == 0
    assert TokenCache.open(tmp_path / "cache").classes == ["Ωμέγα", "red circle", "none of them"]


def test_a_thousand_labels_are_those_of_imagenet(convert, weights, tmp_path):
    source, *_ = write_source(tmp_path, "jsonl", rows=2, labels=[999, 1])
    assert convert(source, tmp_path / "cache", f"tokenizer={weights}")[0] == 0
    assert is_imagenet(TokenCache.open(tmp_path / "cache").classes)


# Sentences


def test_what_is_no_source(complaint, weights, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "a.zip").write_text("")
    (tmp_path / "empty").mkdir()
    assert complaint() == "source or out is empty: python -m MaskGIL convert SOURCE OUT."
    assert complaint(tmp_path / "none", out).startswith(f"No such source: {tmp_path / 'none'}. Nam")
    assert "Did you mean 'llamagen-vq16'?" in complaint("llamagen-vq61", out)
    assert "holds nothing that can be converted" in complaint(tmp_path / "empty", out)
    for name in ("imagenet256_codes", "imagenet256_labels"):
        (tmp_path / name).mkdir()
        assert complaint(tmp_path / name, out) == (
            f"{tmp_path / name} is one of two folders of a data set; give {tmp_path}."
        )
    (tmp_path / "empty/config.json").write_text("{}")
    assert "its config.json is of another program" in complaint(tmp_path / "empty", out)
    assert "files to convert end in .pt, " in complaint(tmp_path / "a.zip", out)
    assert "is a weights folder of ours already; say to=official" in complaint(weights, out)
    assert "tokenizer=magvit2-f8 name two tokenizers" in complaint(
        "magvit2-f16", out, "tokenizer=magvit2-f8"
    )
    assert "classes is for tokens of others" in complaint(weights, out, "classes=a.txt")
    assert "out=out must end in .safetensors" in complaint(weights, "out", "to=official")
    (tmp_path / "a.safetensors").write_text("")
    for name in ("weights", "a.safetensors"):
        target = tmp_path / name
        assert complaint(weights, target).startswith(f"out={target} exists already; name a new")


def test_weights_that_do_not_fit(complaint, small, tmp_path):
    name, tokenizer = small
    file, out = write_public(tmp_path / "vq.pt", tokenizer), tmp_path / "out"
    assert complaint(file, out).startswith(f"tokenizer is empty; name the one in {file}, tok")
    assert "Did you mean 'small'?" in complaint(file, out, "tokenizer=smal")
    assert "looks like a tokenizer of the family llamagen, not maskgit" in complaint(
        file, out, "tokenizer=maskgit-vq"
    )
    file.write_bytes(file.read_bytes()[:-100])
    assert "is not a whole file of weights" in complaint(file, out, f"tokenizer={name}")
    missing = (tmp_path / "none", tmp_path / "out.safetensors", "to=official")
    assert complaint(*missing).startswith("No such weights folder")


@pytest.mark.parametrize("form", SOURCES)
def test_a_bad_row_late_leaves_nothing(complaint, weights, tmp_path, form):
    tokens = random_tokens(CHUNK + 3, SOURCES[form], 16)
    tokens[CHUNK + 1, 0, 5] = 11
    write = {"llamagen": write_folders, "jsonl": write_lines}[form]
    source = write(tmp_path / f"a.{form}", tokens, np.zeros(CHUNK + 3, int))
    said = complaint(source, tmp_path / "cache", f"tokenizer={weights}")
    assert re.search(r"(line 258|257\.npy) has the token 11, but the tokenizer has 11 codes", said)


def test_tokens_need_their_tokenizer_and_names(complaint, weights, tmp_path):
    source, *_ = write_source(tmp_path, "jsonl")
    words, names = (source, tmp_path / "cache"), tmp_path / "names.txt"
    assert complaint(*words).startswith(f"tokenizer is empty; name the one that made {source}: a ")
    assert "Did you mean 'llamagen-vq16'?" in complaint(*words, "tokenizer=llamagen-vq61")
    assert "No such weights folder" in complaint(*words, f"tokenizer={tmp_path / 'none'}")
    words = (*words, f"tokenizer={weights}", f"classes={names}")
    assert f"classes={names} cannot be read" in complaint(*words)
    for text in ("", "a\n\nb\n", "a\nb\na\n"):
        names.write_text(text)
        assert "must have a name in each line, no two alike" in complaint(*words)
    names.write_text("a\nb\n")
    assert "line 3 has the label 2, but classes are 0 to 1;" in complaint(*words)


def test_a_full_disk(complaint, weights, tmp_path, monkeypatch):
    source, *_ = write_source(tmp_path, "jsonl")
    words = (source, tmp_path / "cache", f"tokenizer={weights}")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert "needs 0.0 GB, its disk has only 0.0 GB left" in complaint(*words)


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "full"), 2), (KeyboardInterrupt(), 130)])
def test_a_stop_leaves_nothing(convert, weights, tmp_path, monkeypatch, error, code):
    source, *_ = write_source(tmp_path, "jsonl")

    def stopped(*arguments):
        raise error

    monkeypatch.setattr(module, "replace_file", stopped)  # after the tokens are written
    assert convert(source, tmp_path / "cache", f"tokenizer={weights}")[0] == code
    assert not list(tmp_path.glob("cache*"))
