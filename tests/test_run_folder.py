import json
import os
import re
import sys

import pytest
from tiny_runs import config, tree

from MaskGIL.config import load_config
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.run_folder import as_begun, check_run_folder, environment, open_run_folder


def refused(sentence, config):
    """The folder is refused with a sentence, and stays as it was."""
    with pytest.raises(UserError) as error:
        open_run_folder(config)
    assert str(error.value) == sentence


def test_a_new_folder_is_made_with_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "data.path=my photos"])
    wanted = config("tokenizer", tmp_path / "deep")
    folder = open_run_folder(wanted)
    assert folder == tmp_path / "deep" / "tokenizer"
    assert load_config(RunConfig, folder / "config.yaml", []) == wanted
    assert re.fullmatch(
        r"python\S* main.py 'data.path=my photos'\n", (folder / "command.txt").read_text()
    )
    assert json.loads((folder / "env.json").read_text()) == environment()
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "command.txt", "env.json", "checkpoints", "samples", "tb",
    }  # fmt: skip


def test_the_environment_tells_versions_and_no_variables(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "a-secret-value")
    found = environment()
    assert set(found) == {
        "python", "torch", "torchvision", "commit", "machine", "cores", "devices", "ranks",
    }  # fmt: skip
    assert found["ranks"] == 1
    assert "a-secret-value" not in json.dumps(found)


def test_every_start_is_a_line_of_command_txt(tmp_path):
    for _ in range(2):
        open_run_folder(config("tokenizer", tmp_path))
    assert len((tmp_path / "tokenizer" / "command.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("names", [[], ["cache"], ["cache", "bad_files.txt"]])
def test_an_empty_folder_and_one_with_a_cache_are_fine(tmp_path, names):
    for name in names:
        (tmp_path / "tokenizer" / name).mkdir(parents=True)
    assert (open_run_folder(config("tokenizer", tmp_path)) / "config.yaml").is_file()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    before = tree(tmp_path)
    refused(
        f"out_dir={tmp_path} is not empty and not one of our runs (it has no config.yaml); "
        "name another folder.",
        config("tokenizer", tmp_path, f"out_dir={tmp_path}"),
    )
    assert tree(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    refused(f"out_dir lies in {file}, which is a file; choose another folder.",
            config("tokenizer", tmp_path, f"out_dir={file}"))  # fmt: skip
    assert file.read_text() == "mine"


def test_a_folder_that_one_may_not_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path.exists() and mode == os.F_OK)
    refused(f"out_dir lies in {tmp_path}, which you may not write to; choose another folder.",
            config("tokenizer", tmp_path, f"out_dir={tmp_path / 'a' / 'b'}"))  # fmt: skip


def test_no_folder_is_refused(tmp_path):
    refused("out_dir is empty; name a recipe, such as MaskGIL/configs/demo/generator.yaml, "
            "or the folder of the run, out_dir=runs/NAME.",
            config("tokenizer", tmp_path, "out_dir="))  # fmt: skip


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["seed=3"], "seed=0, not 3"),
        (["optim.batch=32"], "optim.batch=16, not 32"),
        (["tokenizer.multipliers=1,1,2,2"], "tokenizer.multipliers=[1, 1, 2, 4], not [1, 1, 2, 2]"),
        (["optim.lr=1", "optim.clip=2", "seed=1"], "seed=0, not 1 (2 more keys differ)"),
    ],
)
def test_another_identity_is_refused_with_both_values(tmp_path, words, change):
    folder = open_run_folder(config("tokenizer", tmp_path))
    before = tree(folder)
    refused(
        f"out_dir={folder} holds a run with {change}; resume it unchanged or name another folder.",
        config("tokenizer", tmp_path, *words),
    )
    assert tree(folder) == before


def test_a_free_key_may_change(tmp_path):
    open_run_folder(config("tokenizer", tmp_path))
    words = ["loop.steps=99", "loop.accumulation=2", "data.workers=3", "precision=fp32"]
    changed = config("tokenizer", tmp_path, *words)
    folder = open_run_folder(changed)
    assert load_config(RunConfig, folder / "config.yaml", []) == changed


def test_a_run_that_goes_on_keeps_the_weights_it_began_with(tmp_path):
    begun = config("generator", tmp_path, "init_from=theirs.pt", "init_skip=head,output")
    open_run_folder(begun)
    for words in ([], ["init_from=theirs.pt"], ["init_from=theirs.pt", "init_skip=head,output"]):
        assert as_begun(config("generator", tmp_path, *words)) == begun


@pytest.mark.parametrize(
    ("begun", "words", "told"),
    [
        (["init_from=a.pt"], ["init_from=b.pt"], "init_from=a.pt, not b.pt; leave init_from out"),
        ([], ["init_from=b.pt"], 'init_from="", not b.pt; leave init_from out'),
        (["init_from=a.pt", "init_skip=head"], ["init_from=a.pt", "init_skip=output,head"],
         "init_skip=head, not output,head; leave init_skip out"),
    ],
)  # fmt: skip
def test_a_run_that_goes_on_refuses_to_have_begun_with_others(tmp_path, begun, words, told):
    folder = open_run_folder(config("generator", tmp_path, *begun))
    with pytest.raises(UserError) as error:
        as_begun(config("generator", tmp_path, *words))
    assert str(error.value) == (
        f"out_dir={folder} holds a run that began with {told}, or name another out_dir."
    )


def test_a_damaged_config_is_told(tmp_path):
    folder = open_run_folder(config("tokenizer", tmp_path))
    (folder / "config.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError, match=re.escape(str(folder / "config.yaml"))):
        check_run_folder(config("tokenizer", tmp_path))


def test_checking_writes_nothing(tmp_path):
    check_run_folder(config("tokenizer", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_rank_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert open_run_folder(config("tokenizer", tmp_path)) == tmp_path / "tokenizer"
    assert list(tmp_path.iterdir()) == []
