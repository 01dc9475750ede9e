import re
import warnings

import numpy as np
import pytest
import tiny_text
import torch
from tiny_text import CAPTIONS, save_encoder, text_network

from MaskGIL.caption_cache import CaptionCache, finish_captions, write_captions
from MaskGIL.prompting import PromptEncoder, Texts, read_texts
from MaskGIL.text_source import TextOrigin
from Network import text
from Network.config import UserError
from Network.text import load_text_encoder

TOKENS = 10  # of `text_network`; the longest of CAPTIONS has 12
pytestmark = pytest.mark.filterwarnings("ignore:(A caption of|An empty prompt)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def network():
    return text_network()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def origin(folder, precision="fp32", skip_layers=0, **changes):
    given = {"num_tokens": TOKENS, "skip_layers": skip_layers, "dtype": DTYPES[precision]}
    encoder = load_text_encoder(folder, **given)
    changes["skip_layers"] = skip_layers
    return TextOrigin(str(folder), precision, encoder.fingerprint)._replace(**changes)


@pytest.mark.parametrize(("precision", "skip_layers"), [("fp32", 0), ("bf16", 0), ("fp32", 1)])
def test_captions_are_those_of_a_caption_cache(folder, network, tmp_path, precision, skip_layers):
    text = origin(folder, precision, skip_layers)
    given = {"num_tokens": TOKENS, "skip_layers": skip_layers, "dtype": DTYPES[precision]}
    encoder = load_text_encoder(folder, **given)
    texts = [caption for caption in CAPTIONS if caption]
    write_captions(tmp_path / "cache", [texts], encoder)
    finish_captions(tmp_path / "cache")
    rows = np.zeros(len(texts), np.int64)
    expected = CaptionCache.open(tmp_path / "cache").captions(rows, np.arange(len(texts)))
    found = PromptEncoder(network, text)(texts)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.features, expected.features.float())


def test_a_text_has_the_same_captions_in_any_company_and_order(folder, network):
    encode = PromptEncoder(network, origin(folder))
    texts = [*CAPTIONS, *CAPTIONS[::-1]]
    found = encode(texts)
    for index, each in enumerate(texts):
        alone = encode([each])
        assert torch.equal(alone.features[0], found.features[index])
        assert torch.equal(alone.mask[0], found.mask[index])


def test_an_empty_text_is_the_null_caption_and_is_told_of_once(folder, network):
    encode = PromptEncoder(network, origin(folder))
    with pytest.warns(UserWarning, match=r"^An empty prompt asks for nothing: its image is drawn"):
        found = encode(["a star", ""])
    assert found.dropped.tolist() == [False, True]
    assert not found.mask[1].any()  # nobody has told how long captions of training are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode([""])


def test_an_empty_text_is_as_long_as_captions_of_training_and_needs_no_encoder(network, tmp_path):
    gone = TextOrigin(str(tmp_path / "gone"), "fp32", "ab", null_tokens=7)
    found = PromptEncoder(network, gone)(["", ""])
    assert found.features.shape == (2, TOKENS, 16)
    assert found.mask.tolist() == [[True] * 3 + [False] * 7] * 2
    assert found.dropped.all()
    assert network.condition.is_null(found)


def test_texts_are_read_once_where_they_are_checked_first(folder, network, monkeypatch):
    encode = PromptEncoder(network, origin(folder))
    read, features = [], encode.encoder.features
    monkeypatch.setattr(
        encode.encoder, "features", lambda said: read.append(said) or features(said)
    )
    for _ in range(2):
        captions = encode(["a star"])
        encode.against(["dark"], captions)
    assert read == [["a star"], ["dark"]]


def test_guidance_leads_away_from_an_empty_text_as_from_none(folder, network):
    encode = PromptEncoder(network, origin(folder))
    captions = encode(["a star", "two red circle"])
    found, plain = (
        encode.against(["", "a blue ring"], captions),
        network.condition.without(captions),
    )
    assert torch.equal(network.condition(found)[0], network.condition(plain)[0])
    assert found.dropped.tolist() == [True, False]
    assert torch.equal(found.mask[0], plain.mask[0])
    alone = encode(["a blue ring"])
    assert torch.equal(found.features[1:], alone.features)
    assert torch.equal(found.mask[1:], alone.mask)


def test_a_long_text_is_cut_and_told_of(folder, network):
    encode = PromptEncoder(network, origin(folder))
    with pytest.warns(UserWarning, match=r"^A caption of 12 tokens is cut to 10, the most for"):
        found = encode(["two blue ring below a red star on dark above"])
    assert not found.mask.any()


def test_texts_are_put_into_lower_case_where_the_network_learned_them_so(folder, network):
    plain, lower = (origin(folder, lower_case=lower) for lower in (False, True))
    expected = PromptEncoder(network, plain)(["a red star"]).features
    assert torch.equal(PromptEncoder(network, lower)(["A red STAR"]).features, expected)
    assert not torch.equal(PromptEncoder(network, plain)(["A red STAR"]).features, expected)


def test_texts_are_cut_as_labels_are(folder, network):
    encode = PromptEncoder(network, origin(folder))
    texts = Texts(encode, CAPTIONS)
    assert len(texts) == len(CAPTIONS)
    assert torch.equal(texts[2:5].features, encode(CAPTIONS[2:5]).features)


def test_minilm_by_its_name():
    encoder = load_text_encoder(tiny_text.minilm(), name="all-minilm-l6-v2")
    wide = tiny_text.tiny.network(num_classes=0, caption_width=384, caption_tokens=16).float()
    found = PromptEncoder(wide, TextOrigin("all-minilm-l6-v2", "fp32", encoder.fingerprint))(
        ["two rings"]
    )
    assert found.features.shape == (1, 16, 384)
    assert torch.equal(
        found.features[0, -4:], encoder.features(["two rings"])[0].bfloat16().float()
    )


# Which encoder


def sentence(network, text, asked=None):
    with pytest.raises(UserError) as error:
        PromptEncoder(network, text, asked)(["a star"])
    return str(error.value)


def test_another_encoder_than_that_of_the_weights(folder, network, tmp_path):
    text, other = origin(folder), save_encoder(tmp_path / "other", seed=1)
    other_print = origin(other).fingerprint
    assert sentence(network, text, str(other)) == (
        f"text_encoder={other} has the fingerprint {other_print[:16]}, and these weights learned "
        f"from {folder} with {text.fingerprint[:16]}; name that one."
    )
    unknown = text._replace(fingerprint="")
    found = PromptEncoder(network, unknown, str(other))(["a star"])  # nobody has told of another
    assert found.features.shape == (1, TOKENS, 16)


def test_weights_that_do_not_name_their_encoder(folder, network):
    assert sentence(network, None) == (
        "These weights do not say which text encoder they learned from; name it, "
        "text_encoder=FOLDER."
    )
    found = PromptEncoder(network, None, str(folder))(["a star"])
    assert torch.equal(found.features, PromptEncoder(network, origin(folder))(["a star"]).features)


def test_an_encoder_of_another_width(folder):
    wide = tiny_text.tiny.network(num_classes=0, caption_width=20).float()
    assert sentence(wide, None, str(folder)) == (
        f"text_encoder={folder} gives a token 16 numbers, and these weights take 20; name the "
        "encoder that they learned from."
    )


def test_the_extra_is_named(folder, network, monkeypatch):
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    told = sentence(network, TextOrigin(str(folder), "fp32", ""))
    assert told == "A text encoder needs the extra t2i: pip install -e .[t2i]."


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "prompt is 3; give a text, or a list of texts."),
        (["a", 3], "prompt is ['a', 3]; give a text, or a list of texts."),
        ([], "prompt is an empty list; give a text, or leave it out."),
    ],
)
def test_sentences_of_texts(given, told):
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        read_texts("prompt", given)


def test_texts_are_spelt_as_captions_are():
    assert read_texts("prompt", " two\n red  rings ") == ["two red rings"]
    assert read_texts("prompt", ("a", "")) == ["a", ""]
