"""What FID_sample.py is asked: keys that need each other, and those that exclude each other."""

from dataclasses import fields

import pytest

from MaskGIL.config import load_config
from MaskGIL.sampling_keys import SamplingKeys
from Metrics.sample_config import SampleConfig
from Network.config import UserError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["num_images=1"], "num_images must be at least 2, not 1."),
        (["train=a"], "train needs a reference to tell what is near: give reference=... too."),
        (["reference=a", "ladder=true"], "ladder needs the training images: give train=... too."),
        (["reconstruct=a"], "reconstruct redraws the images of reference=... and samples none: gi"),
        (
            ["samples=a.npz", "reference=b", "weights=c"],
            "weights has no effect on images that are given; leave it out.",
        ),
        (["samples=a.npz"], "samples are scored against a reference: give reference=... too."),
        (["sweep=a"], "sweep scores its cells against a reference: give reference=... too."),
        (
            ["sweep=a", "reference=b", "reconstruct=c"],
            "reconstruct has no effect on a sweep; l",
        ),
        (["precision_recall=false"], "precision_recall has no effect without reference=...; leave"),
        (["num_reference=9"], "num_reference has no effect without reference=...; leave it out."),
        (["sweep=a", "reference=b", "vgg=none"], "vgg has no effect on a sweep; leave it out."),
        (["captions=a", "classifier=true"], "classifier has no effect with captions=...; leave it"),
        (["captions=a", "classes=ant"], "classes has no effect with captions=...; leave it out."),
        (["clip=a"], "clip has no effect without captions=...; leave it out."),
        (["captions_split=train"], "captions_split has no effect without captions=...; leave it o"),
        (["height=-1"], "height must be at least 0, not -1."),
        (["reconstruct=a", "reference=b", "image_size=8"], "image_size must be at least 11, not 8"),
        (["sweep=a", "reference=b", "num_images=19"], "num_images=19 is too few for the errors of"),
    ],
)
def test_sentences(words, sentence):
    with pytest.raises(UserError) as error:
        load_config(SampleConfig, None, words)
    assert str(error.value).startswith(sentence)


def test_a_set_is_of_as_many_images_as_published_ones_unless_it_is_told():
    assert SampleConfig().count == 50_000
    assert SampleConfig(num_images=99).count == 99


def test_grids_are_separated_by_commas_and_their_values_by_blanks():
    words = ["reference=a", "sweep=num_steps=1 2,a name plan=ar"]
    found = load_config(SampleConfig, None, words)
    assert found.sweep == ("num_steps=1 2", "a name plan=ar")


OTHER = {
    "num_images": 99,
    "png": "a",
    "nearest": "a.png",
    "classes": ("ant",),
    "vgg": "none",
    "grid": "a.png",
    "captions_split": "train",
}


def different(field):
    """A value that is not the default of a key."""
    if field.name in OTHER:
        return OTHER[field.name]
    if isinstance(field.default, bool):
        return not field.default
    return field.default + 1 if isinstance(field.default, int) else "a"


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ({}, "without reconstruct=..."),
        ({"sweep": ("a",)}, "on a sweep"),
        ({"reconstruct": ("a",)}, "where nothing is sampled"),
        ({"samples": "a.npz"}, "on images that are given"),
    ],
)
def test_every_key_that_is_not_read_is_refused(way, what):
    """Which those are is told here once more, from what the code behind each way reads."""
    size, redrawn = {"height", "width", "resize"}, {"image_size", "vgg", "grid"}
    scores = {"train", "ladder", "classifier", "precision_recall", "nearest", "dinov2"}
    captions = {"captions", "captions_split", "clip", "negative_prompt"}
    sampler = {field.name for field in fields(SamplingKeys)} - {"device", "precision", "weights"}
    unread = {
        "without reconstruct=...": redrawn,
        "on a sweep": {"reconstruct", "samples", "png", "clip"} | redrawn | scores | size,
        "where nothing is sampled": {"num_images", "png", "classes"}
        | (size | scores | sampler | captions),
        "on images that are given": {"png", "classes", "chunk", "precision"}
        | captions
        | (size | redrawn | sampler | scores | {"reconstruct"}) - {"precision_recall", "dinov2"},
    }[what]
    for field in fields(SampleConfig):
        if field.name in {"reference", "sweep", "weights", "verify", *way}:
            continue
        try:
            SampleConfig(**{**way, "reference": "a", field.name: different(field)})
            sentence = ""
        except UserError as error:
            sentence = str(error)
        expected = f"{field.name} has no effect {what}; leave it out."
        assert (sentence == expected) == (field.name in unread), field.name
