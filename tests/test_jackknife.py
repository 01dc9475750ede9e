"""Errors against what repeating the whole measurement gives."""

import numpy as np
import pytest
import torch

from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.jackknife import GROUPS, balanced_groups, standard_error, without_each

RANDOM = np.random.default_rng(0)


def statistics(features):
    found = FeatureStatistics()
    found.update(torch.as_tensor(features))
    return found


def test_the_error_of_a_mean_is_that_of_the_textbook():
    """With groups of one image: the deviation over the root of their number."""
    values = RANDOM.normal(size=50)
    without = [np.delete(values, i).mean() for i in range(50)]
    assert standard_error(without) == pytest.approx(values.std(ddof=1) / 50**0.5)


def test_groups_have_their_share_of_every_class():
    labels = RANDOM.permutation(np.repeat(np.arange(7), [40, 20, 10, 31, 3, 50, 0]))
    groups = balanced_groups(labels)
    sizes = np.bincount(groups, minlength=GROUPS)
    assert sizes.max() - sizes.min() <= 1
    for label in range(7):
        shares = np.bincount(groups[labels == label], minlength=GROUPS)
        assert shares.max() - shares.min() <= 1


def test_a_set_without_each_of_its_groups():
    features, groups = RANDOM.normal(size=(40, 3)), np.arange(40) % GROUPS
    parts = [statistics(features[groups == group]) for group in range(GROUPS)]
    for group, found in enumerate(without_each(parts)):
        rest = torch.as_tensor(features[groups != group])
        assert found.count == 36
        torch.testing.assert_close(found.mean, rest.mean(0))
        torch.testing.assert_close(found.covariance, rest.T.cov())


def test_two_errors_cover_a_distance_as_often_as_they_should():
    """Of 200 sets about 95 % lie within 2.26 errors (Student's t of 9) of the mean of all."""
    real, width, size = statistics(RANDOM.normal(size=(500, 16))), 16, 80
    factor = RANDOM.normal(size=(width, width)) / width**0.5
    groups, found = np.arange(size) % GROUPS, []
    for _ in range(200):
        features = RANDOM.normal(size=(size, width)) @ factor + 0.3
        parts = [statistics(features[groups == group]) for group in range(GROUPS)]
        errors = [distance(rest, real) for rest in without_each(parts)]
        found.append((distance(statistics(features), real), standard_error(errors)))
    values, errors = np.array(found).T
    assert 0.9 < (abs(values - values.mean()) < 2.26 * errors).mean() < 0.99
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15)
