"""Tokenizers by what users call them."""

import pytest
from tiny_weights import CODES, save_tiny_weights

from MaskGIL.weights import open_tokenizer
from Metrics.candidates import find_candidate
from Network.config import UserError
from Network.tokenizer import NAMED


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


def test_the_tokenizer_of_a_generators_folder(weights):
    found = find_candidate("reconstruct", str(weights))
    assert (found.value, found.stride, found.codebook_size) == (str(weights), 2, CODES)
    assert not found.is_public
    assert open_tokenizer(found.config).codebook_size == CODES


@pytest.mark.parametrize("name", NAMED)
def test_public_names_with_and_without_a_file(name, tmp_path):
    found = find_candidate("reconstruct", name)
    assert found.is_public
    assert found.stride == (8 if name.endswith("8") else 16)
    assert found.codebook_size == NAMED[name].codebook_size
    (tmp_path / "a:b.pt").touch()
    found = find_candidate("reconstruct", f"{name}:{tmp_path / 'a:b.pt'}")
    assert not found.is_public
    assert (found.config.name, found.config.weights) == (name, str(tmp_path / "a:b.pt"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("llamagen-vq61", "reconstruct=llamagen-vq61 is no weights folder and none of the names"),
        ("llamagen-vq61", "Did you mean 'llamagen-vq16'?"),
        ("llamagen-vq16:a.pt", "reconstruct=llamagen-vq16:a.pt: there is no file a.pt; name one"),
        ("runs/nothing", "No such weights folder: runs/nothing."),
        (".", "is no weights folder: it has no config.json."),
    ],
)
def test_mistakes(value, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        find_candidate("reconstruct", value)
    assert sentence in str(error.value)
