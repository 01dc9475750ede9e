"""Intervals of sets drawn from known Gaussians hold the true value as often as they say."""

import numpy as np
import pytest
import torch

from Metrics.inception_metrics import FeatureStatistics, Gaussian
from Metrics.inception_score import inception_score
from Metrics.intervals import (
    FEWEST_COUNTED,
    PER_FEATURE,
    beyond_bias,
    extrapolated,
    interval,
    interval_of_blocks,
    interval_of_rate,
    interval_of_share,
)
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


def test_an_interval_of_a_rate_ends_where_the_rate_would_be_improbable():
    """Wilson's: its ends are the p of which the rate is 1.96 deviations of p away."""
    for right, count in ((3, 10), (0, 25), (25, 25), (190, 200)):
        for end in interval_of_rate(right / count, count):
            deviation = np.sqrt(end * (1 - end) / count)
            assert abs(right / count - end) == pytest.approx(1.959964 * deviation, abs=1e-6)


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.97])
def test_an_interval_of_a_rate_holds_the_true_one(rate):
    right = np.random.default_rng(0).binomial(150, rate, size=2000)
    assert covered(rate, [interval_of_rate(each / 150, 150) for each in right]) > 0.93


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


def test_intervals_hold_it_from_the_fewest_images_a_feature_on():
    """Of a flat spectrum, whose distance is the last to become a line in 1 / N."""
    random = torch.Generator().manual_seed(0)
    width, sets, shift = 96, 60, 0.1
    known = Gaussian.of(torch.zeros(width), torch.eye(width).double())

    def distance(statistics):
        return statistics.gaussian().distance(known)

    found, labels = [], np.zeros(PER_FEATURE * width, dtype=np.int64)
    for _ in range(sets):
        images = torch.randn(len(labels), width, generator=random, dtype=torch.float64) + shift
        statistics = FeatureStatistics()
        statistics.update(images)
        _, *ends = beyond_bias(images, labels, distance, distance(statistics)).values()
        found.append(ends)
    assert beyond_bias(images[1:], labels[1:], distance, 1.0) == {}
    assert covered(width * shift**2, found) >= 0.9


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


RECALL, COVERAGE = 1, 3


def shares(number, num_real, width, scale, sets=100):
    """Of sets of SIZE: (share, those without each group) by number in `Neighbourhoods`."""
    random = torch.Generator().manual_seed(2)
    real = torch.randn(num_real, width, generator=random, dtype=torch.float64)
    found = []
    for _ in range(sets):
        images = torch.randn(SIZE, width, generator=random, dtype=torch.float64) * scale
        value, *without = (each[number] for each in neighbourhoods(real, images, GROUP_OF))
        found.append((value, without))
    return found, np.mean([value for value, _ in found])


@pytest.mark.parametrize(
    ("number", "scale", "expected"),
    [(RECALL, 0.7, 0.52), (COVERAGE, 0.3, 0.76), (RECALL, 1.0, 0.88), (COVERAGE, 1.3, 0.92)],
)
def test_intervals_hold_the_true_recall_and_coverage(number, scale, expected):
    """Of sets of one size, as for the inception score; they are rather too wide."""
    found, true = shares(number, 200, 8, scale)
    assert true == pytest.approx(expected, abs=0.03)
    told = [ends for each in found if (ends := interval_of_share(*each, 200))]
    assert len(told) > 0.8 * len(found)
    assert covered(true, told) >= 0.9


@pytest.mark.parametrize("number", [RECALL, COVERAGE])
def test_near_one_there_is_no_interval_rather_than_one_that_is_too_narrow(number):
    found, true = shares(number, 30, 2, 1.5)
    assert 0.97 < true <= 1
    assert covered(true, [interval(*each) for each in found]) < 0.9
    assert not any(interval_of_share(*each, 30) for each in found)


def test_a_share_has_an_interval_from_a_few_images_on_inside_and_outside():
    for count in range(101):
        share = count / 100
        without = [share, share + 0.01, share - 0.01]
        is_told = FEWEST_COUNTED <= count <= 100 - FEWEST_COUNTED
        expected = interval(share, without) if is_told else None
        assert interval_of_share(share, without, 100) == expected


def test_intervals_hold_the_true_inception_score_of_sets_of_one_size():
    """That is the mean of very many sets: of fewer or more images it is another number."""
    random = torch.Generator().manual_seed(3)

    def score(seed):
        logits = torch.randn(SIZE, 12, generator=random, dtype=torch.float64) * 2
        return inception_score(logits, GROUPS, seed)

    true = np.mean([score(seed)[0] for seed in range(5 * SETS)])
    found = [interval_of_blocks(*score(seed), GROUPS) for seed in range(SETS)]
    assert 0.9 <= covered(true, found) <= 0.99
