"""Tokenizers by what users call them: for comparisons, conversions and caches alike."""

import pytest
from tiny_weights import CODES, save_tiny_weights

from MaskGIL.tokenizer_source import find_tokenizer
from Network.config import UserError
from Network.tokenizer import NAMED


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


def test_the_tokenizer_of_a_generators_folder(weights):
    found = find_tokenizer("reconstruct", str(weights))
    assert (found.value, found.described.stride) == (str(weights), 2)
    assert found.described.codebook_size == CODES
    assert not found.is_public
    assert found.open().codebook_size == CODES


@pytest.mark.parametrize("name", NAMED)
def test_public_names_with_and_without_a_file(name, tmp_path):
    found = find_tokenizer("reconstruct", name)
    assert found.is_public
    assert found.described.stride == (8 if name.endswith("8") else 16)
    assert found.described.codebook_size == NAMED[name].codebook_size
    (tmp_path / "a:b.pt").touch()
    found = find_tokenizer("reconstruct", f"{name}:{tmp_path / 'a:b.pt'}")
    assert not found.is_public
    assert (found.config.name, found.config.weights) == (name, str(tmp_path / "a:b.pt"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("llamagen-vq61", "reconstruct=llamagen-vq61 is no weights folder and none of the names"),
        ("llamagen-vq61", "Did you mean 'llamagen-vq16'?"),
        ("there.pt", "reconstruct=there.pt is a file, which does not say what it is: give its "),
        ("w/there.pt", "give its weights folder, w, or reconstruct=NAME:w/there.pt with NAME one"),
        ("llamagen-vq16:a.pt", "reconstruct=llamagen-vq16:a.pt: there is no file a.pt; name one"),
        ("runs/nothing", "No such weights folder: runs/nothing."),
        (".", "is no weights folder: it has no config.json."),
    ],
)
def test_mistakes(value, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (tmp_path / "there.pt", tmp_path / "w/there.pt"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with pytest.raises(UserError) as error:
        find_tokenizer("reconstruct", value)
    assert sentence in str(error.value)
