"""Scores of many sets against one reference, and their errors: those of `evaluate`, and by hand."""

import numpy as np
import pytest
import torch

from MaskGIL.data.shapes import CLASSES
from Metrics.attributes import Drawings, facts_of
from Metrics.caption_set import open_caption_set
from Metrics.features import load_feature_network
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.jackknife import GROUPS, balanced_groups, standard_error
from Metrics.judge import ACCURACY, ASKED, Judge
from Metrics.oracle import classify
from Metrics.prompt_score import shows_everything
from Metrics.reference import open_image_set
from Metrics.sample_and_eval import evaluate

SIDE = 32
NAME = "shapesnet-1 distance"


class Colours(InceptionNetwork):
    """Stands in for Inception: mean colours."""

    def __init__(self, official):
        self.name, self.sha256, self.width, self.is_official = "colours", "0", 3, official

    def __call__(self, images):
        return images.float().mean((2, 3))


@pytest.fixture(scope="module")
def reference():
    return open_image_set("reference", "shapes:80", "val", (SIDE, SIDE))


@pytest.fixture(scope="module")
def samples():
    """Images and labels, a quarter of which are wrong."""
    drawn = open_image_set("samples", "shapes:60", "train", (SIDE, SIDE))
    labels = drawn.labels.copy()
    labels[::4] = (labels[::4] + 1) % len(CLASSES)
    return torch.cat(list(drawn)), labels


def test_scores_are_those_of_a_single_set(reference, samples):
    images, labels = samples
    judge = Judge(reference, reference, [load_feature_network()], CLASSES)
    found = judge.score(images.split(7), labels)
    expected = evaluate(images.split(7), labels, reference, classes=CLASSES)
    assert judge.sha256 == expected["reference"]["sha256"]
    assert found["sha256"] == expected["sha256"]
    values = {name: measure["value"] for name, measure in found["measures"].items()}
    assert values.keys() == {NAME, ACCURACY}
    for name, value in values.items():
        assert value == pytest.approx(expected["metrics"][name])
    again = judge.score(images.split(60), labels)["measures"][NAME]
    assert again["without"] == pytest.approx(found["measures"][NAME]["without"])


def test_errors_are_those_of_sets_without_each_group(reference, samples):
    images, labels = samples
    network = load_feature_network()
    groups, real, without = balanced_groups(labels), FeatureStatistics(), []
    real.update(torch.cat([network(batch) for batch in reference]))
    for group in range(GROUPS):
        rest = FeatureStatistics()
        rest.update(network(images[groups != group]))
        without.append(distance(rest, real))
    found = Judge(reference, reference, [network], CLASSES).score([images], labels)["measures"]
    assert found[NAME]["without"] == pytest.approx(without, rel=1e-4)
    assert found[NAME]["error"] == pytest.approx(standard_error(without), rel=1e-3)
    right = classify(images.permute(0, 2, 3, 1)) == labels
    shares = [float(np.mean(right[groups != group])) for group in range(GROUPS)]
    assert found[ACCURACY]["error"] == pytest.approx(standard_error(shares))
    assert 0.01 < found[ACCURACY]["error"] < 0.1  # about (0.75 x 0.25 / 60)^1/2 = 0.056


def test_prompts_of_scenes_are_read_back():
    scenes = open_caption_set("scenes:40", "val", 0, 0, (64, 64))
    images, texts = torch.cat(list(Drawings(scenes.scenes, scenes.rows))), list(scenes.texts)
    texts[:10] = texts[10:20]
    reference = open_image_set("reference", "scenes:40", "val", (64, 64))
    judge = Judge(reference, reference, [Colours(False)], (), texts)
    found = judge.score([images], np.full(40, -1))["measures"][ASKED]
    shows = np.array(shows_everything(facts_of(images), texts))
    assert found["value"] == shows.mean()
    assert 0.7 < found["value"] < 0.8  # a quarter has the prompt of another
    groups = np.arange(40) % GROUPS
    assert found["without"] == [shows[groups != group].mean() for group in range(GROUPS)]


def test_other_classes_have_no_oracle_and_inception_comes_by_its_name(reference, samples):
    images, labels = samples
    for official, name in ((True, "FID"), (False, "colours distance")):
        judge = Judge(reference, reference, [Colours(official)], ["a", "b"])
        assert list(judge.score([images], labels)["measures"]) == [name]
