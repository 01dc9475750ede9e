"""Training images held out for choices: who sees them, and who does not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import OF_TEXT, config, image_folder, tokenizer_weights

from MaskGIL.config import load_config
from MaskGIL.data import open_images
from MaskGIL.data.choice import choice_rows, hold_out_choice
from Metrics.reference import open_reference, open_reference_images
from Metrics.sample_config import SampleConfig
from Network.config import UserError
from Trainer.generator_data import write_caches
from Trainer.tokens import cache_folder, open_split


def labelled(labels) -> Any:
    return SimpleNamespace(labels=np.array(labels), classes=("a", "b"))


def test_of_each_class_every_tenth_is_held_out():
    labels = [0] * 25 + [1] * 10 + [2] * 3 + [3]
    assert choice_rows(labelled(labels)).tolist() == [9, 19, 34, 36]  # of 2 the second, of 3 none


def names(images):
    return [images.name(row) for row in range(len(images))]


def test_a_run_trains_on_the_rest_and_validates_on_them(tmp_path):
    run = config("tokenizer", tmp_path, "data.choice=true", "data.num_images=320")
    train, held = open_split(run, "train"), open_split(run, "val")
    whole = open_images(run.data, "train")
    assert sorted(names(train) + names(held)) == sorted(names(whole))
    assert (len(train), len(held)) == (288, 32)
    assert np.bincount(held.labels).tolist() == [2] * 16
    row = names(whole).index(names(held)[5])
    assert held.image(5).tobytes() == whole.image(row).tobytes()
    assert held.labels[5] == whole.labels[row]


def test_a_cache_has_them_apart(tmp_path):
    tokenizer_weights(tmp_path)
    run = config("generator", tmp_path, "data.choice=true", "data.num_images=320")
    write_caches(run)
    sizes = [(cache_folder(run, split) / "index.json").read_text() for split in ("train", "val")]
    assert sizes[0] != sizes[1]
    other = config("generator", tmp_path, "data.num_images=320")
    with pytest.raises(UserError):  # it is of other images
        write_caches(other)


@pytest.mark.parametrize("changes", [("data.source=tokens",), OF_TEXT])
def test_what_cannot_hold_out_says_so(tmp_path, changes):
    run = config("generator", tmp_path, "data.choice=true", *changes)
    with pytest.raises(UserError, match=r"^data\.choice does not go with .*; leave data\.choice"):
        open_split(run, "train")


def test_a_reference_is_what_a_run_holds_out(tmp_path):
    folder = image_folder(tmp_path, train=20)
    found = open_reference_images(str(folder), "choice", (32, 32))
    run = config("tokenizer", tmp_path, "data.choice=true", "data.source=folder",
                 f"data.path={folder}")  # fmt: skip
    held = open_split(run, "val")
    assert len(found) == len(held) == 4
    assert found.labels.tolist() == held.labels.tolist()
    assert found.split == "choice"
    drawn = open_reference_images("shapes:320", "choice", (32, 32), 16)
    assert (len(drawn), drawn.name) == (16, "shapes (train), choice")


def test_a_reference_without_training_images_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "b.npz", mu=np.zeros(4), sigma=np.eye(4))
    for name, sentence in (("a", "needs training images"), ("b", "needs images, and")):
        with pytest.raises(UserError, match=f"reference_split=choice {sentence}"):
            open_reference(str(tmp_path / f"{name}.npz"), "choice", (32, 32))


def test_copies_are_not_looked_for_in_what_is_compared_with():
    words = ["weights=w", "reference=shapes", "train=shapes:64", "reference_split=choice"]
    with pytest.raises(UserError, match="which reference_split=choice does not leave"):
        load_config(SampleConfig, None, words)


def test_parts_of_a_source_are_a_source():
    source = open_images(config("tokenizer", Path()).data, "train")
    assert len(hold_out_choice(source, "train")) + len(hold_out_choice(source, "val")) == 64
