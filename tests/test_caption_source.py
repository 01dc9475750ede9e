import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import tiny_text
import torch
from tiny_runs import config, image_folder, run_ranks, text_weights, tree

from MaskGIL.cached_rows import CachedRows
from MaskGIL.caption_index import read_index
from MaskGIL.data import open_images
from MaskGIL.text_source import TextOrigin, open_text_encoder
from Network.config import UserError
from Network.text import load_text_encoder
from Trainer.caption_source import CaptionSource, caption_folder, describe_captions, has_captions


@pytest.fixture
def folder(tmp_path):
    return text_weights(tmp_path)


def opened(run):
    return CaptionSource(run, {split: open_images(run.data, split) for split in ("train", "val")})


def test_captions_are_cached_once_and_read_as_the_encoder_reads_them(folder, capsys):
    run = config("text", folder, "data.num_images=40")
    source = opened(run)
    assert source.origin == TextOrigin(f"{folder}/encoder", "fp32", source.facts.fingerprint)
    assert not has_captions(run)
    encoder = load_text_encoder(folder / "encoder", num_tokens=12)
    caches, blank = source.caches(), source.blank()
    assert has_captions(run)
    assert "captions   80 read by encoder, in" in capsys.readouterr().out
    rows, which = np.array([3, 0, 39]), np.array([1, 0, 1])
    texts = [source.tables["train"][row][number] for row, number in zip(rows, which)]
    expected = encoder(texts)
    given, empty = (each["train"].captions(rows, which) for each in (caches, blank))
    assert torch.equal(given.features, expected.features.bfloat16())
    assert torch.equal(given.mask, expected.mask)
    assert (empty.features.shape, empty.features.dtype) == (given.features.shape, torch.bfloat16)
    assert not empty.mask.any()
    assert caches["train"].counts.tolist() == blank["train"].counts.tolist() == [2] * 40
    before = tree(folder)
    opened(run).caches()
    assert tree(folder) == before
    size = caches["train"].num_bytes
    assert describe_captions(source.facts, caches["train"]) == (
        f"80, 12 x 16 by encoder, cached as {size / 1000:.1f} kB"
    )


@pytest.mark.parametrize("features", [CaptionSource.caches, CaptionSource.blank])
def test_the_encoder_is_let_go_when_its_features_are_there(folder, monkeypatch, features):
    opened_ones = []

    def remembered(*arguments, **more):
        encoder = open_text_encoder(*arguments, **more)
        opened_ones.append(weakref.ref(encoder.model))
        return encoder

    monkeypatch.setattr("Trainer.caption_source.open_text_encoder", remembered)
    source = opened(config("text", folder))
    (model,) = opened_ones
    assert model() is not None
    features(source)
    gc.collect()
    assert model() is None
    assert source.facts.width == 16


def test_the_layers_that_are_left_out_are_told_to_whoever_samples(folder):
    source = opened(config("text", folder, "text.skip_layers=1"))
    encoder = load_text_encoder(folder / "encoder", num_tokens=12, skip_layers=1)
    assert source.facts.fingerprint == source.origin.fingerprint == encoder.fingerprint
    assert source.origin.skip_layers == 1


def test_a_cache_of_another_encoder_precision_or_layer_is_refused(folder):
    run = config("text", folder)
    opened(run).caches()
    tiny_text.save_encoder(folder / "other", seed=1)
    others = [{"encoder": f"{folder / 'other'}"}, {"precision": "bf16"}, {"skip_layers": 1}]
    for text in (replace(run.text, **change) for change in others):
        with pytest.raises(
            UserError, match=r"^The caption cache .* was made by the text encoder enc"
        ):
            opened(replace(run, text=text)).caches()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "text.encoder=",
            "text.encoder is empty, and network.caption_width asks for captions; nam",
        ),
        (
            "text.encoder=minilm",
            "text.encoder=minilm is no folder and none of the names flan-t5-xl",
        ),
        (
            "network.caption_width=8",
            r"The text encoder encoder gives features of width 16, network.ca",
        ),
        ("data.source=mnist", "data.source=mnist has no captions; choose shapes, scenes, folder."),
    ],
)
def test_mistakes_are_named_before_anything_is_written(folder, change, sentence):
    images = {"train": open_images(config("text", folder).data, "train")}
    before = tree(folder)
    with pytest.raises(UserError, match=f"^{sentence}"):
        CaptionSource(config("text", folder, "data.buckets=", change), images)
    assert tree(folder) == before


def test_pictures_without_captions_are_named(folder):
    words = [
        "data.buckets=",
        "data.source=folder",
        f"data.path={image_folder(folder / 'pictures')}",
    ]
    with pytest.raises(
        UserError, match=r"^data.path=.*pictures has no captions; put NAME.txt beside"
    ):
        opened(config("text", folder, *words))


def test_rows_of_tokens_alone_have_no_captions(folder):
    run = config("text", folder)
    rows = CachedRows(folder / "tokens", np.arange(3), np.zeros(3, np.int64), [], "f00d")
    with pytest.raises(
        UserError, match=r"tokens comes without pictures, and captions stand beside"
    ):
        CaptionSource(run, {"train": rows})


def write(folder):
    opened(config("text", folder, "data.num_images=1100")).caches()


def test_two_ranks_write_what_one_writes(folder, tmp_path):
    from functools import partial

    other = text_weights(tmp_path / "other")
    write(folder)
    run_ranks(2, [partial(write, other)])
    for split in ("train", "val"):
        places = [caption_folder(config("text", each), split) for each in (folder, other)]
        assert read_index(places[0])["complete"]
        files = [[file.read_bytes() for file in sorted(place.iterdir())] for place in places]
        assert files[0] == files[1]
