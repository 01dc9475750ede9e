"""Names of text encoders; the hub is a server on this machine."""

import shutil

import pytest
import tiny_text
import torch
from fake_hub import hub as serve
from huggingface_hub import constants

from MaskGIL import text_source
from MaskGIL.text_source import ENCODERS, PACKAGES, find_text_encoder, open_text_encoder
from Network.config import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with nothing on it, and the client's folder in `tmp_path`."""
    with serve() as served:
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("no_proxy", "*")
        yield served


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_text.save_encoder(tmp_path_factory.mktemp("encoders") / "tiny-bert")


def check(width):
    if width != 16:
        raise UserError(f"of {width}")


def wrong(width):
    raise UserError(f"of {width}")


def files_of(folder, **more):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | more


def test_a_folder_is_an_encoder(folder):
    encoder = open_text_encoder(
        "text.encoder", str(folder), check, num_tokens=7, dtype=torch.bfloat16
    )
    assert (encoder.name, encoder.num_tokens, encoder.precision) == ("tiny-bert", 7, "bf16")


def test_a_repository_is_fetched_once_and_found_afterwards(hub, folder, tmp_path, capsys):
    files = files_of(folder, **{"pytorch_model.bin": b"of no use", "flax_model.msgpack": b"x"})
    hub.serve_repository("google/flan-t5-xl", COMMIT, files)
    found = find_text_encoder("text.encoder", "flan-t5-xl")
    assert sorted(path.name for path in found.iterdir()) == sorted(
        path.name for path in folder.iterdir()
    )
    told = f"fetching   google/flan-t5-xl from the hub, to {tmp_path / 'hub'}\n"
    assert capsys.readouterr().out == told
    asked = len(hub.requests)
    for value in ("flan-t5-xl", "google/flan-t5-xl"):
        encoder = open_text_encoder("text.encoder", value, check)
        assert encoder.name == "flan-t5-xl"
    assert (len(hub.requests), capsys.readouterr().out) == (asked, "")
    assert encoder.fingerprint == open_text_encoder("text.encoder", str(folder), check).fingerprint


@pytest.mark.parametrize("kind", ["bert", "t5", "clip", "clip_text_model"])
def test_another_width_is_told_before_weights_are_fetched(hub, tmp_path, kind):
    hub.serve_repository("a/b", COMMIT, files_of(tiny_text.save_encoder(tmp_path / kind, kind)))
    with pytest.raises(UserError, match=r"^of 16$"):
        open_text_encoder("text.encoder", "a/b", wrong)
    fetched = [path.name for path in (tmp_path / "hub").rglob("*") if path.is_symlink()]
    assert fetched == ["config.json"]
    assert open_text_encoder("text.encoder", "a/b", check).width == 16


def test_a_fetch_that_broke_off_goes_on(hub, folder, monkeypatch):
    hub.serve_repository("a/b", COMMIT, files_of(folder))
    found = find_text_encoder("text.encoder", "a/b")
    (found / "model.safetensors").unlink()
    assert find_text_encoder("text.encoder", "a/b") == found
    assert (found / "model.safetensors").is_file()
    (found / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and a/b is not on this machine"):
        find_text_encoder("text.encoder", "a/b")


def test_nothing_is_fetched_with_hub_access_off(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        find_text_encoder("text.encoder", "flan-t5-xl")
    assert str(caught.value) == (
        "text.encoder=flan-t5-xl: HF_HUB_OFFLINE is set, and google/flan-t5-xl is not on this "
        "machine; give a folder that holds it."
    )
    assert not hub.requests


@pytest.mark.parametrize(("value", "reason"), [("a/b", ".*404.*"), ("a--b/c", ".*a--b/c.*")])
def test_an_unknown_repository_is_told_in_a_sentence(hub, value, reason):
    told = rf"^text.encoder={value}: {value} cannot be fetched \({reason}\); give a folder"
    with pytest.raises(UserError, match=told) as caught:
        find_text_encoder("text.encoder", value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["flan-t5-xxl", "/nowhere/at-all", "./nowhere", "a b/c", "a/b/c"])
def test_what_is_neither_folder_nor_name_is_refused(value):
    with pytest.raises(UserError) as caught:
        find_text_encoder("text.encoder", value)
    told = f"text.encoder={value} is no folder and none of the names {', '.join(ENCODERS)}, or "
    hint = " Did you mean 'flan-t5-xl'?" if value.startswith("flan") else ""
    assert str(caught.value) == f"{told}OWNER/NAME of a repository of the hub.{hint}"


def test_a_short_name_stands_for_a_repository():
    assert all(repository.count("/") == 1 for repository in ENCODERS.values())
    assert PACKAGES.keys() <= set(ENCODERS.values())


def test_minilm_is_found_in_its_package_without_the_hub(monkeypatch):
    folder = tiny_text.minilm()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for value in ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert find_text_encoder("text.encoder", value) == folder
    assert open_text_encoder("text.encoder", value, print).name == "all-minilm-l6-v2"


def test_without_its_package_minilm_comes_from_the_hub(hub, folder, monkeypatch):
    monkeypatch.setattr(text_source, "find_spec", lambda name: None)
    hub.serve_repository("sentence-transformers/all-MiniLM-L6-v2", COMMIT, files_of(folder))
    found = find_text_encoder("text.encoder", "all-minilm-l6-v2")
    assert files_of(found) == files_of(folder)
    shutil.rmtree(found)
