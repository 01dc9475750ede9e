"""The distance that is told while a run trains."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny_runs import TRAINERS, image_folder, records, run_ranks, tokenizer_weights, train
from tiny_runs import config as tiny_config

from MaskGIL.data import open_images
from MaskGIL.data.crops import crop_image, to_float, to_uint8
from MaskGIL.distributed import rank, world_size
from MaskGIL.pipeline import Pipeline
from Metrics.features import load_feature_network
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.labels import choose_labels
from Metrics.sample_and_eval import sample_chunks
from Network.config import UserError
from Trainer.scoring import Scorer

CPU = torch.device("cpu")
SIDE = 32


def statistics(images):
    found = FeatureStatistics()
    with torch.inference_mode():
        found.update(load_feature_network()(images))
    return found


def scorer(folder, count):
    words = ("data.source=folder", f"data.path={folder}", "data.max_bad=0.5")
    config = tiny_config("tokenizer", folder, *words, f"loop.score_images={count}")
    images = open_images(config.data, "val")
    return images, Scorer(config, images, CPU)


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "images", train=4, val=12)


def test_the_distance_is_that_of_the_features(folder):
    images, found = scorer(folder, 100)
    crops = torch.stack([crop_image(images.image(row), "center", 0, SIDE) for row in range(24)])
    assert torch.equal(torch.cat(list(found.crops(5))), crops)
    pictures = 255 - crops
    expected = distance(statistics(pictures), statistics(crops))
    score = found.score(pictures.split(7))
    assert score == {"distance": pytest.approx(expected, rel=1e-6), "images": 24}
    assert found.score(crops.split(7))["distance"] == pytest.approx(0, abs=1e-6)


def test_as_many_validation_images_as_pictures_evenly_spread(folder):
    _, found = scorer(folder, 10)
    assert len(found) == 10
    assert found.rows.tolist() == np.linspace(0, 23, 10).astype(int).tolist()
    assert np.bincount(found.labels).tolist() == [5, 5]
    assert [len(crops) for crops in found.crops(4)] == [4, 4, 2]


def test_an_unreadable_image_does_not_end_the_run(folder):
    (folder / "val" / "cat" / "0.png").write_bytes(b"broken")
    _, found = scorer(folder, 24)
    assert sum(map(len, found.crops(5))) == 24
    assert "val/cat/0.png" in (folder / "tokenizer" / "bad_files.txt").read_text()


class Chosen:
    """The labels of some validation images."""

    def __init__(self, images, rows):
        self.labels, self.classes = images.labels[rows], images.classes

    def __len__(self):
        return len(self.labels)


def by_hand(trainer, count):
    """The distance of a run's pictures with the weights that are in place."""
    images, module = open_images(trainer.config.data, "val"), trainer.module.eval()
    rows = np.linspace(0, len(images) - 1, count).astype(int)
    crops = torch.stack([crop_image(images.image(row), "center", 0, SIDE) for row in rows])
    if trainer.config.job == "tokenizer":
        with torch.no_grad():
            return distance(statistics(to_uint8(module(to_float(crops))[0])), statistics(crops))
    words = (trainer.tokenizer, images.classes, trainer.config.sampling)
    pipe = Pipeline(module, *words, dtype=trainer.dtype)
    labels = choose_labels(pipe, ["data"], count, 0, Chosen(images, rows))
    pictures = torch.cat([part for _, part in sample_chunks(pipe, labels, 0, trainer.chunk)])
    return distance(statistics(pictures), statistics(crops))


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_it_is_that_of_the_averaged_weights_pictures(job, tmp_path):
    tokenizer_weights(tmp_path)
    every = ("loop.score_every=4", "loop.score_images=20", "optim.lr=0.1", "precision=fp32")
    trainer = train(job, tmp_path, "loop.steps=4", *every)
    (score,) = records(tmp_path / job, "score")
    with trainer.averaged():
        assert score["distance"] == pytest.approx(by_hand(trainer, 20), rel=1e-4)
    assert score["distance"] != pytest.approx(by_hand(trainer, 20), rel=1e-2)


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_a_single_validation_image_is_told_before_anything_is_written(job, tmp_path):
    tokenizer_weights(tmp_path)
    images = image_folder(tmp_path / "images", classes=["cat"], train=4, val=1)
    words = (f"data.path={images}", "data.source=folder", "network.num_classes=1")
    TRAINERS[job](tiny_config(job, tmp_path, *words))  # it does for validation
    with pytest.raises(UserError) as error:
        TRAINERS[job](tiny_config(job, tmp_path, *words, "loop.score_every=2"))
    assert str(error.value) == (
        "loop.score_every=2 needs at least 2 validation images, the data has 1; add some or use "
        "loop.score_every=0."
    )
    assert not (tmp_path / job).exists()


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_a_run_tells_it_every_so_many_steps_and_at_the_end(job, tmp_path):
    tokenizer_weights(tmp_path)
    every = ("loop.score_every=2", "loop.score_images=20")
    train(job, tmp_path, "loop.steps=3", *every)
    scores = records(tmp_path / job, "score")
    assert [(record["step"], record["images"]) for record in scores] == [(2, 20), (3, 20)]
    log = (tmp_path / job / "log.txt").read_text()
    assert f"score at step 3 | distance {scores[1]['distance']:.4g} | images 20\n" in log


def test_scoring_changes_nothing_else(tmp_path):
    tokenizer_weights(tmp_path)
    plain = train("generator", tmp_path, "loop.steps=3")
    every = ("loop.score_every=1", "loop.score_images=4", f"out_dir={tmp_path / 'scored'}")
    scored = train("generator", tmp_path, "loop.steps=3", *every)
    pairs = zip(plain.module.state_dict().values(), scored.module.state_dict().values())
    assert all(torch.equal(one, other) for one, other in pairs)


def note_distance(folder, out):
    """Of this rank's share of pictures, which follow from its crops."""
    _, found = scorer(folder, 11)
    pictures = (255 - crops for crops in found.crops(4))
    (out / f"{world_size()}-{rank()}").write_text(str(found.score(pictures)["distance"]))


@pytest.mark.slow
def test_four_ranks_of_which_one_has_no_share_find_the_same(folder, tmp_path):
    note_distance(folder, tmp_path)
    run_ranks(4, [partial(note_distance, folder, tmp_path)])
    expected = float((tmp_path / "1-0").read_text())
    for number in range(4):
        found = float((tmp_path / f"4-{number}").read_text())
        assert found == pytest.approx(expected, rel=1e-9)
