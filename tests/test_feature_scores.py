"""Scores and intervals together are those of the parts alone."""

import numpy as np
import pytest
import torch
from fixtures.metrics.stored import gaussian

from Metrics.feature_scores import FEWEST, feature_scores
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.intervals import PER_FEATURE, extrapolated, interval
from Metrics.jackknife import GROUPS, balanced_groups
from Metrics.kid import kernel_distance, squared_mmd
from Metrics.neighbourhoods import neighbourhoods
from Metrics.published import Distance

WIDTH, COUNT = 4, 90
LABELS = np.random.default_rng(0).integers(3, size=COUNT)


def statistics_of(features):
    found = FeatureStatistics()
    found.update(features)
    return found


@pytest.fixture(scope="module")
def sets():
    return gaussian(COUNT, WIDTH, seed=1, mean=0.5).float(), gaussian(70, WIDTH, seed=2).float()


def distance_to(real, name="tiny distance", prefix="tiny "):
    real = statistics_of(real)
    return Distance(name, prefix, lambda found: distance(found, real), "70 images", True)


def test_numbers_and_their_intervals(sets):
    generated, real = sets
    to_real = distance_to(real)
    value = to_real.of(statistics_of(generated))
    found = feature_scores(real, generated, LABELS, to_real, value)
    assert list(found) == ["metrics", "intervals", "how"]
    (whole,) = neighbourhoods(real, generated)
    expected = {"KID": kernel_distance(real, generated, size=70)[0], **whole._asdict()}
    assert found["metrics"] == {f"tiny {name}": score for name, score in expected.items()}
    assert found["intervals"].keys() == {*found["metrics"], "tiny distance"}
    assert "100 subsets of 70 images" in found["how"]["tiny KID"]

    groups = torch.from_numpy(balanced_groups(LABELS))
    rests = [generated[groups != group] for group in range(GROUPS)]
    without = [to_real.of(statistics_of(rest)) for rest in rests]
    limit = extrapolated(value, without)
    ends = found["intervals"]["tiny distance"]
    assert ends["extrapolated"] == pytest.approx(limit)
    assert (ends["low"], ends["high"]) == pytest.approx(interval(limit, without))
    recalls = [neighbourhoods(real, rest)[0].recall for rest in rests]
    ends = found["intervals"]["tiny recall"]
    assert tuple(ends.values()) == pytest.approx(interval(whole.recall, recalls))
    pairs = interval(*squared_mmd(real, generated, groups))
    assert tuple(found["intervals"]["tiny KID"].values()) == pytest.approx(pairs)


def test_an_fid_gives_its_names_to_all(sets):
    generated, real = sets
    found = feature_scores(real, generated, LABELS, distance_to(real, "FID", ""), 1.0)
    assert list(found["metrics"]) == ["KID", "precision", "recall", "density", "coverage"]
    assert "FID" in found["intervals"]


def test_too_few_images_a_feature_extrapolate_nothing(sets):
    generated, real = sets
    few = PER_FEATURE * WIDTH + 8  # or FEWEST would come first
    wide = [torch.cat([x, x.flip(1)], 1) for x in sets]
    for number, features in ((few, (generated, real)), (FEWEST, wide)):
        first, second = features[0][:number], features[1]
        labels = np.zeros(number, dtype=np.int64)
        found = feature_scores(second, first, labels, distance_to(second), 1.0)
        told = number >= PER_FEATURE * first.shape[1]
        assert ("tiny distance" in found["intervals"]) == told
        assert "tiny coverage" in found["intervals"]
