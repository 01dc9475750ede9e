"""Intervals of sets drawn from known Gaussians hold the true value as often as they say."""

import numpy as np
import pytest
import torch

from Metrics.inception_metrics import FeatureStatistics, Gaussian
from Metrics.inception_score import inception_score
from Metrics.intervals import beyond_bias, extrapolated, interval, interval_of_blocks
from Metrics.jackknife import GROUPS
from Metrics.kid import squared_mmd
from Metrics.neighbourhoods import neighbourhoods

SETS, SIZE = 200, 300
GROUP_OF = torch.arange(SIZE) % GROUPS
LABELS = np.arange(SIZE) % 7


def test_an_interval_is_that_of_the_textbook():
    """Of a mean and groups of one image each: Student's t, 2.262 of nine degrees of freedom."""
    values = np.random.default_rng(0).normal(size=10)
    low, high = interval(values.mean(), [np.delete(values, i).mean() for i in range(10)])
    reach = 2.2621571628 * values.std(ddof=1) / 10**0.5
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_an_interval_of_blocks_is_the_jackknifes_with_the_blocks_as_groups():
    values = np.random.default_rng(1).normal(size=7)
    expected = interval(values.mean(), [np.delete(values, i).mean() for i in range(7)])
    assert interval_of_blocks(values.mean(), values.std(), 7) == pytest.approx(expected)


@pytest.mark.parametrize("count", [50, 5000])
def test_a_line_in_one_over_the_number_of_images_is_followed_to_its_end(count):
    without = [3 + 7 / (0.9 * count)] * 10
    assert extrapolated(3 + 7 / count, without) == pytest.approx(3, rel=1e-12)


def covered(true, found):
    return np.mean([low < true < high for low, high in found])


def test_intervals_hold_the_true_frechet_distance():
    """In closed form: sum of (m - n)^2 + (s - t)^2 over the axes, which are independent."""
    random = torch.Generator().manual_seed(0)
    width = 6
    spread, target = torch.linspace(0.5, 1.5, width).double(), torch.ones(width).double()
    shift = torch.linspace(0, 0.5, width).double()
    true = (shift.square() + (spread - target).square()).sum().item()
    known = Gaussian.of(torch.zeros(width), target.diag())

    def distance(statistics):
        return statistics.gaussian().distance(known)

    found, values, limits = [], [], []
    for _ in range(SETS):
        images = torch.randn(SIZE, width, generator=random, dtype=torch.float64) * spread + shift
        statistics = FeatureStatistics()
        statistics.update(images)
        values.append(distance(statistics))
        limit, *ends = beyond_bias(images, LABELS, distance, values[-1]).values()
        limits.append(limit)
        found.append(ends)
    assert 0.9 <= covered(true, found) <= 0.99
    error = np.std(limits) / SETS**0.5
    assert np.mean(values) - true > 4 * error  # the distance of few images is too large,
    assert abs(np.mean(limits) - true) < 3 * error  # and extrapolated it is not


def test_intervals_hold_the_true_kernel_distance():
    """In one dimension (x y + 1)^3 needs the first three moments alone."""
    random = torch.Generator().manual_seed(1)
    real = torch.randn(200, 1, generator=random, dtype=torch.float64)
    mean, deviation = 0.3, 1.2
    moments = [mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2]
    weights = [3, 3, 1]
    own = 1 + sum(weight * moment**2 for weight, moment in zip(weights, moments))
    cross = 1 + sum(
        weight * moment * (real**power).mean().item()
        for power, (weight, moment) in enumerate(zip(weights, moments), 1)
    )
    kernels = (real @ real.T + 1) ** 3
    among_real = (kernels.sum() - kernels.trace()).item() / (200 * 199)
    found = []
    for _ in range(SETS):
        images = torch.randn(SIZE, 1, generator=random, dtype=torch.float64) * deviation + mean
        found.append(interval(*squared_mmd(real, images, GROUP_OF)))
    assert 0.9 <= covered(own + among_real - 2 * cross, found) <= 0.99


@pytest.mark.parametrize("number", [0, 2])
def test_intervals_hold_the_true_precision_and_density(number):
    """Those of one very large set: of real images that stay the same they are plain means."""
    random = torch.Generator().manual_seed(2)
    real = torch.randn(30, 2, generator=random, dtype=torch.float64)

    def draw(count):
        return torch.randn(count, 2, generator=random, dtype=torch.float64) * 1.5 + 0.5

    def scores(images, groups=None):
        return [found[number] for found in neighbourhoods(real, images, groups)]

    true = np.mean([scores(draw(2000))[0] for _ in range(10)])
    found = []
    for _ in range(SETS):
        value, *without = scores(draw(SIZE), GROUP_OF)
        found.append(interval(value, without))
    assert 0.9 <= covered(true, found) <= 0.99


def test_intervals_hold_the_true_inception_score_of_sets_of_one_size():
    """That is the mean of very many sets: of fewer or more images it is another number."""
    random = torch.Generator().manual_seed(3)

    def score(seed):
        logits = torch.randn(SIZE, 12, generator=random, dtype=torch.float64) * 2
        return inception_score(logits, GROUPS, seed)

    true = np.mean([score(seed)[0] for seed in range(5 * SETS)])
    found = [interval_of_blocks(*score(seed), GROUPS) for seed in range(SETS)]
    assert 0.9 <= covered(true, found) <= 0.99
