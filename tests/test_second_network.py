import re

import pytest
import tiny
from tiny_text import text_network

from MaskGIL.pipeline import Pipeline
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import save_weights
from Network.config import UserError

CLASSES = ["red circle", "blue square", "goldfish"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Weights of masks and of the next token, of one tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("pair"), tiny.tokenizer()
    for objective in ("mar", "ar"):
        network = tiny.network().float()
        save_weights(
            folder / objective, tokenizer, network=network, classes=CLASSES, objective=objective
        )
    return folder, tokenizer


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"codebook_size": 12}, "codebook"),
        ({"num_classes": 4}, "number of classes"),
        ({"grid": (4, 5)}, "grid"),
        ({}, "list of classes"),
        (None, "tokenizer"),
    ],
)
def test_two_networks_must_go_together(tmp_path, pair, changes, name):
    folder, tokenizer = pair
    if changes is None:
        tokenizer = tiny.fill(tiny.tokenizer(), 5)
    classes = CLASSES if changes != {} else CLASSES[::-1]
    network = tiny.network(**(changes or {})).float()
    save_weights(
        tmp_path / "ar", tokenizer, network=network, classes=classes, objective="ar",
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        Pipeline.from_pretrained(folder / "mar", ema=False, ar_folder=tmp_path / "ar")
    assert str(error.value) == (
        f"ar_weights={tmp_path / 'ar'} have another {name} than weights={folder / 'mar'}; both "
        "networks must make the same tokens of the same condition."
    )


def test_a_second_network_of_the_wrong_kind(tmp_path, pair):
    folder, tokenizer = pair
    save_weights(tmp_path / "tokenizer", tokenizer)
    for weights, ar_weights, sentence in [
        ("mar", folder / "mar", f"ar_weights={folder / 'mar'} were trained with objective=mar; na"),
        ("mar", tmp_path / "tokenizer", f"ar_weights={tmp_path / 'tokenizer'} holds a tokenizer, "),
        ("ar", folder / "ar", f"weights={folder / 'ar'} are those of an AR network, as ar_weights"),
    ]:
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
            Pipeline.from_pretrained(folder / weights, ema=False, ar_folder=ar_weights)


def test_both_read_the_features_of_one_text_encoder(tmp_path):
    origins = {
        "mar": ("here", "fp32", "ab12"),
        "alike": ("there", "fp32", "ab12"),
        "other": ("here", "fp32", "cd34"),
    }
    for name, origin in origins.items():
        save_weights(
            tmp_path / name, tiny.tokenizer(), network=text_network(),
            objective="mar" if name == "mar" else "ar", text=TextOrigin(*origin),
        )  # fmt: skip
    found = Pipeline.from_pretrained(tmp_path / "mar", ema=False, ar_folder=tmp_path / "alike")
    assert found.text == TextOrigin("here", "fp32", "ab12")
    with pytest.raises(UserError, match=r"have another text encoder than weights="):
        Pipeline.from_pretrained(tmp_path / "mar", ema=False, ar_folder=tmp_path / "other")
