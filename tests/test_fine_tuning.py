"""Runs of tokenizers that begin with weights; those of generators are in test_vit.py."""

import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from test_vqgan import codebook, make, steps
from tiny_runs import train, tree

from MaskGIL.weights import load_tokenizer
from Network.config import UserError
from Network.tokenizer import NAMED
from Network.tokenizer.official import official_names


def test_fine_tuning_begins_with_what_is_given(tmp_path):
    """Weights as they are; the first step replaces no codebook, which would undo them."""
    train("tokenizer", tmp_path / "first", "loop.steps=3")
    folder = tmp_path / "first/tokenizer/weights"
    given = load_tokenizer(folder).state_dict()
    trainer = make(tmp_path, f"init_from={folder}", "reconstruction.revive_every=1")
    begun = trainer.tokenizer.state_dict()
    assert all(torch.equal(begun[name], given[name]) for name in given)
    before = codebook(trainer)
    next(steps(trainer, 1))
    moved = (codebook(trainer) - before).abs().amax(1)
    assert (moved < 0.1).any()  # those in use moved a little; the others were revived


def test_a_run_that_was_fine_tuned_resumes_without_what_it_began_with(tmp_path):
    train("tokenizer", tmp_path / "first", "loop.steps=2")
    weights = tmp_path / "first/tokenizer/weights"
    words = [f"init_from={weights}", "loop.save_every=2"]
    train("tokenizer", tmp_path, *words, "loop.steps=2")
    assert f"begun with {weights}\n" in (tmp_path / "tokenizer/log.txt").read_text()
    shutil.rmtree(weights)
    assert train("tokenizer", tmp_path, *words, "loop.steps=4").step == 4
    assert train("tokenizer", tmp_path, *words[1:], "loop.steps=5").step == 5
    assert (tmp_path / "tokenizer/log.txt").read_text().count("begun with") == 1
    assert f"init_from: {weights}\n" in (tmp_path / "tokenizer/config.yaml").read_text()
    before = tree(tmp_path)
    with pytest.raises(UserError, match="began with init_from=.*, not other; leave init_from out"):
        train("tokenizer", tmp_path, "init_from=other", "loop.steps=6")
    assert tree(tmp_path) == before


def test_fine_tuning_from_a_file_of_the_authors(tmp_path):
    source = make(tmp_path, "tokenizer.family=llamagen").tokenizer
    tiny.fill(source)
    names = official_names(source.state_dict(), "llamagen")
    theirs = {names[name]: tensor.clone() for name, tensor in source.state_dict().items()}
    torch.save({"model": theirs}, tmp_path / "theirs.pt")
    trainer = make(tmp_path, "tokenizer.family=llamagen", f"init_from={tmp_path / 'theirs.pt'}")
    found = trainer.tokenizer.state_dict()
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """LlamaGen's name for a tiny tokenizer; itself, and which names were asked for."""
    source = make(tmp_path, "tokenizer.family=llamagen").tokenizer
    names = official_names(source.state_dict(), "llamagen")
    theirs = {names[name]: tensor.clone() for name, tensor in source.state_dict().items()}
    asked, file = [], tmp_path / "fetched.pt"
    torch.save({"model": theirs}, file)
    monkeypatch.setitem(NAMED, "llamagen-vq16", source.config)
    monkeypatch.setattr("Trainer.fine_tuning.public_file", lambda name: asked.append(name) or file)
    return source, asked


def test_fine_tuning_from_a_public_name(tmp_path, fetched):
    source, asked = fetched
    words = ["tokenizer.family=llamagen", "tokenizer.commitment_weight=2", "seed=1"]
    found = make(tmp_path, *words, "init_from=llamagen-vq16").tokenizer.state_dict()
    assert asked == ["llamagen-vq16"]
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


def test_a_public_name_of_another_architecture_is_not_fetched(tmp_path, monkeypatch, fetched):
    """Whether codes lie on the unit sphere, and the groups of norms, no shape tells."""
    source, asked = fetched
    words = ["tokenizer.family=llamagen", "init_from=llamagen-vq16"]
    here = "; begin with MaskGIL/configs/tokenizers/llamagen-vq16.yaml."
    with pytest.raises(UserError) as error:
        make(tmp_path, *words, "tokenizer.groups=2")
    assert str(error.value) == f"{words[1]} has tokenizer.groups=4, this run 2{here}"
    other = replace(source.config, l2_norm=not source.config.l2_norm)
    monkeypatch.setitem(NAMED, "llamagen-vq16", other)
    with pytest.raises(UserError, match=r"has tokenizer\.l2_norm=true, this run false; begin with"):
        make(tmp_path, *words)
    assert asked == []


@pytest.mark.parametrize("name", ["llamagen-vq61", "nowhere.pt"])
def test_a_name_that_is_none(tmp_path, name):
    with pytest.raises(UserError) as error:
        make(tmp_path, f"init_from={name}")
    hint = " Did you mean 'llamagen-vq16'?" if name == "llamagen-vq61" else ""
    assert str(error.value) == (
        f"init_from={name} is no file, no weights folder and none of the names "
        f"{', '.join(NAMED)}.{hint}"
    )


def test_weights_that_do_not_fit_are_refused(tmp_path):
    train("tokenizer", tmp_path, "loop.steps=1")
    words = [f"init_from={tmp_path / 'tokenizer/weights'}", "tokenizer.width=8"]
    with pytest.raises(UserError) as error:
        make(tmp_path / "other", *words)
    assert str(error.value) == (
        f"{words[0]} has tokenizer.width=4, this run 8; give it the tokenizer section of that run."
    )
    with pytest.raises(UserError, match=r"has tokenizer\.groups=4, this run 2"):  # no shape tells
        make(tmp_path / "other", words[0], "tokenizer.groups=2")
    make(tmp_path / "other", words[0], "tokenizer.commitment_weight=2")
    with pytest.raises(UserError, match=r"Did you mean .*tokenizer/weights"):
        make(tmp_path / "other", f"init_from={tmp_path / 'tokenizer'}")
