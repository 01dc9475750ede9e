import pytest
import torch
from tiny_text import save_encoder, text_pipeline
from tiny_weights import save_tiny_weights

from MaskGIL.config import load_config
from MaskGIL.generate import GenerateConfig
from MaskGIL.pipeline import Pipeline
from MaskGIL.prompts import Prompt
from MaskGIL.subjects import choose_labels, choose_subjects
from Network.config import UserError


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    weights = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")
    return Pipeline.from_pretrained(weights, "cpu", torch.float32)


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory):
    return text_pipeline(save_encoder(tmp_path_factory.mktemp("encoder")))


def subjects(pipe, *words):
    return choose_subjects(pipe, load_config(GenerateConfig, None, words))


@pytest.mark.parametrize(
    ("words", "expected", "columns"),
    [
        ([], [0, 2, 4, 6, 8, 10, 12, 15], 8),
        (["num_images=3"], [0, 7, 15], 3),
        (["class_labels=4,9", "num_images=5"], [4, 4, 4, 9, 9], 3),
        (["class_labels=7", "num_images=9"], [7] * 9, 8),
        (["class_labels=9,9"], [9, 9], 2),
    ],
)
def test_labels_and_columns(pipe, words, expected, columns):
    labels, number = choose_labels(pipe, load_config(GenerateConfig, None, words))
    assert (labels.tolist(), number) == (expected, columns)


def test_without_classes_the_null_condition_is_shown(tmp_path):
    folder = save_tiny_weights(tmp_path / "weights", classes=())
    pipe = Pipeline.from_pretrained(folder, "cpu", torch.float32)
    labels, _ = choose_labels(pipe, GenerateConfig(num_images=3))
    assert labels.tolist() == [pipe.network.null_label] * 3
    assert not subjects(pipe).asks


def test_subjects_are_classes(pipe):
    found = subjects(pipe, "class_labels=red ring,3", "num_images=4")
    assert found.condition.tolist() == pipe.labels(["red ring", "red ring", 3, 3]).tolist()
    assert (found.told, found.columns, len(found), found.null) == (
        "red ring, yellow circle", 2, 4, None
    )  # fmt: skip


def test_subjects_are_prompts(text_pipe, tmp_path):
    found = subjects(text_pipe, "prompt=a star,  a ring", "negative_prompt=dark", "num_images=3")
    assert found.condition.texts == ["a star, a ring"] * 3
    assert found.null.texts == ["dark"] * 3
    assert (found.told, found.columns, len(found)) == ("'a star, a ring'", 3, 3)
    captions = text_pipe.encode_prompts(["a star, a ring"])
    assert torch.equal(found.condition[1:2].features, captions.features)
    (tmp_path / "prompts.txt").write_text("a star\na ring\n")
    found = subjects(text_pipe, f"prompts={tmp_path / 'prompts.txt'}", "num_images=2")
    assert found.condition.texts == ["a star", "a star", "a ring", "a ring"]
    assert found.prompts == [Prompt("00000", "a star"), Prompt("00001", "a ring")]
    assert (found.told, found.columns, found.null) == ("'a star' and 1 more", 2, None)


def test_without_a_prompt_there_is_one_image_of_anything(text_pipe):
    found = subjects(text_pipe)
    assert (found.condition.texts, found.told, found.asks) == ([""], "no prompt", False)
    assert subjects(text_pipe, "negative_prompt=dark").asks
    assert subjects(text_pipe, "prompt=a star").asks


@pytest.mark.parametrize("word", ["prompt=a star", "prompts=prompts.txt", "negative_prompt=dark"])
def test_classes_are_not_prompts(pipe, word):
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=f"^{key} is not for these weights, which know classes; "):
        subjects(pipe, word)


def test_prompts_are_not_classes(text_pipe):
    with pytest.raises(UserError, match=r"^class_labels is not for these weights, which know pro"):
        subjects(text_pipe, "class_labels=3", "prompt=a star")
