"""The distance that is told while a run trains."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from tiny_runs import config as tiny_config
from tiny_runs import image_folder, run_ranks, tokenizer_weights, train

from MaskGIL.data import open_images
from MaskGIL.data.crops import crop_image
from MaskGIL.distributed import rank, world_size
from Metrics.features import load_feature_network
from Metrics.inception_metrics import FeatureStatistics, distance
from Trainer.scoring import Scorer

CPU = torch.device("cpu")
SIDE = 32


def statistics(images):
    found = FeatureStatistics()
    with torch.inference_mode():
        found.update(load_feature_network()(images))
    return found


def scorer(folder, count, chunk=5):
    words = ("data.source=folder", f"data.path={folder}", "data.max_bad=0.5")
    config = tiny_config("tokenizer", folder, *words, f"loop.score_images={count}")
    images = open_images(config.data, "val")
    return images, Scorer(config, images, chunk, CPU)


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "images", train=4, val=12)


def test_the_distance_is_that_of_the_features(folder):
    images, found = scorer(folder, 100)
    crops = torch.stack([crop_image(images.image(row), "center", 0, SIDE) for row in range(24)])
    assert torch.equal(torch.cat(list(found.crops())), crops)
    pictures = 255 - crops
    expected = distance(statistics(pictures), statistics(crops))
    assert found.score(pictures.split(7))["distance"] == pytest.approx(expected, rel=1e-6)
    assert found.score(crops.split(7))["distance"] == pytest.approx(0, abs=1e-6)


def test_as_many_validation_images_as_pictures_evenly_spread(folder):
    _, found = scorer(folder, 10)
    assert len(found) == 10
    assert found.rows.tolist() == np.linspace(0, 23, 10).astype(int).tolist()
    assert np.bincount(found.labels).tolist() == [5, 5]
    assert sum(map(len, found.crops())) == 10


def test_an_unreadable_image_does_not_end_the_run(folder):
    (folder / "val" / "cat" / "0.png").write_bytes(b"broken")
    _, found = scorer(folder, 24)
    assert sum(map(len, found.crops())) == 24
    assert "val/cat/0.png" in (folder / "tokenizer" / "bad_files.txt").read_text()


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_a_run_tells_it_every_so_many_steps_and_at_the_end(job, tmp_path):
    tokenizer_weights(tmp_path)
    every = ("loop.score_every=2", "loop.score_images=20")
    trainer = train(job, tmp_path, "loop.steps=3", *every)
    lines = (tmp_path / job / "metrics.jsonl").read_text().splitlines()
    scores = [record for record in map(json.loads, lines) if record["kind"] == "score"]
    assert [record["step"] for record in scores] == [2, 3]
    assert all(record["distance"] > 0 for record in scores)
    assert len(trainer.scorer) == 20
    log = (tmp_path / job / "log.txt").read_text()
    assert f"score at step 3 | distance {scores[1]['distance']:.4g}\n" in log


def test_scoring_changes_nothing_else(tmp_path):
    tokenizer_weights(tmp_path)
    plain = train("generator", tmp_path, "loop.steps=3")
    every = ("loop.score_every=1", "loop.score_images=4", f"out_dir={tmp_path / 'scored'}")
    scored = train("generator", tmp_path, "loop.steps=3", *every)
    pairs = zip(plain.module.state_dict().values(), scored.module.state_dict().values())
    assert all(torch.equal(one, other) for one, other in pairs)


def note_distance(folder, out):
    """Of this rank's share of pictures, which follow from its crops."""
    _, found = scorer(folder, 11, chunk=4)
    pictures = (255 - crops for crops in found.crops())
    (out / f"{world_size()}-{rank()}").write_text(str(found.score(pictures)["distance"]))


@pytest.mark.slow
def test_four_ranks_of_which_one_has_no_share_find_the_same(folder, tmp_path):
    note_distance(folder, tmp_path)
    run_ranks(4, [partial(note_distance, folder, tmp_path)])
    expected = float((tmp_path / "1-0").read_text())
    for number in range(4):
        found = float((tmp_path / f"4-{number}").read_text())
        assert found == pytest.approx(expected, rel=1e-9)
