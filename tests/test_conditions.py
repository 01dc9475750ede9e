"""Labels and captions are cut alike, and tell what they are."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from MaskGIL.config import load_config
from MaskGIL.prompting import Texts
from MaskGIL.text_source import TextOrigin
from Metrics.caption_set import CaptionSet
from Metrics.conditions import (
    choose_conditions,
    choose_null,
    describe_conditions,
    labels_of,
    open_captions,
    take,
)
from Metrics.sample_config import SampleConfig
from Network.condition import Captions
from Network.config import UserError

CPU = torch.device("cpu")
CAPTIONS = CaptionSet("name", "val", [(f"text {row}",) for row in range(9)], 9, seed=0)


class Pipe:
    """Stands in for a pipeline: a text's feature is its last figure."""

    def __init__(self, caption_width=1, text=None):
        self.text, self.asked = text, []
        config = SimpleNamespace(caption_width=caption_width, num_classes=3 * (not caption_width))
        self.network = SimpleNamespace(config=config)

    def encode_prompts(self, texts):
        self.asked.append(list(texts))
        return Captions(torch.tensor([float(text[-1]) for text in texts]).view(-1, 1, 1))


def config(*words):
    return load_config(SampleConfig, None, ["weights=w", *words])


def test_captions_are_encoded_when_they_are_cut():
    pipe = Pipe()
    encoded = choose_conditions(pipe, config(), CAPTIONS, None)
    assert (len(encoded), pipe.asked) == (9, [])
    found = take(encoded, range(2, 5), CPU)
    assert pipe.asked == [CAPTIONS.texts[2:5]]
    assert found.features.flatten().tolist() == CAPTIONS.rows[2:5].tolist()
    assert labels_of(encoded).tolist() == [-1] * 9


def test_labels_are_cut_to_a_tensor():
    labels = np.arange(5)
    found = take(labels, range(1, 3), CPU)
    assert (found.tolist(), found.dtype) == ([1, 2], torch.int64)
    assert labels_of(labels) is labels


def test_what_they_are_is_told():
    labels = np.arange(5)
    expected = hashlib.sha256(labels.tobytes()).hexdigest()
    assert describe_conditions(Pipe(0), labels) == {"labels_sha256": expected}
    pipe = Pipe(text=TextOrigin("minilm", "fp32", "ab"))
    assert describe_conditions(pipe, Texts(pipe.encode_prompts, CAPTIONS.texts)) == {
        "captions_sha256": CAPTIONS.sha256,
        "text_encoder": "minilm",
        "text_encoder_sha256": "ab",
    }


def test_a_negative_prompt_is_one_for_all():
    pipe, given = Pipe(), Texts(None, CAPTIONS.texts)
    assert choose_null(pipe, config("captions=scenes"), given) is None
    found = choose_null(pipe, config("captions=scenes", "negative_prompt=no  7"), given)
    assert (found.texts, found[:2].features.flatten().tolist()) == (["no 7"] * 9, [7.0, 7.0])
    assert describe_conditions(pipe, given, found)["negative_prompt"] == "no 7"


def test_weights_and_captions_must_go_together():
    assert open_captions(Pipe(0), config(), (16, 16)) is None
    assert choose_conditions(Pipe(0), config("num_images=6"), None, None).tolist().count(1) == 2
    found = open_captions(Pipe(), config("captions=scenes:5", "seed=3"), (16, 16))
    assert (len(found), found.split, found.scenes.shapes) == (5, "val", ((16, 16),))
    assert isinstance(choose_conditions(Pipe(), config(), found, None), Texts)
    many = config("captions=scenes:5", "num_images=12", "captions_split=train")
    assert (len(open_captions(Pipe(), many, (16, 16)))) == 12


@pytest.mark.parametrize(
    ("width", "words", "sentence"),
    [
        (0, ["captions=scenes"], "captions=scenes needs weights that were trained with captions,"),
        (1, [], "weights=w draw images of captions; say which, captions=scenes:1024, a folder or"),
        (1, ["captions=scenes:1"], "num_images must be at least 2, not 1."),
    ],
)
def test_mistakes(width, words, sentence):
    with pytest.raises(UserError) as error:
        open_captions(Pipe(width), config(*words), (16, 16))
    assert str(error.value).startswith(sentence)
