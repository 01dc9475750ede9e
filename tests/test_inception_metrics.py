"""Expected numbers: `fixtures/metrics/golden.json` (its packages and versions stand in it), scipy's
`sqrtm`, torchmetrics, numpy, and toy sets counted by hand."""

import re

import numpy as np
import pytest
import scipy.linalg
import torch
from fixtures.metrics.stored import GOLDEN, features, gaussian
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image import fid as torchmetrics_fid

from Metrics.inception_metrics import FeatureStatistics, Gaussian, distance, frechet_distance
from Network.config import UserError


def statistics_of(rows, batch=256):
    statistics = FeatureStatistics()
    for part in rows.split(batch):
        statistics.update(part)
    return statistics


# Statistics


def test_statistics_match_the_stored_moments():
    golden = GOLDEN["pairs"]["a64_b64"]
    a, b = statistics_of(features("a64")), statistics_of(features("b64"))
    assert (a.count, b.count) == (2000, 3000)
    assert a.mean.dtype == a.covariance.dtype == torch.float64
    np.testing.assert_allclose(a.mean[:4], golden["mu1_first4"], rtol=1e-12)
    corner = a.covariance[[0, 0, 1], [0, 1, 1]]
    np.testing.assert_allclose(corner, golden["sigma1_00_01_11"], rtol=1e-12)
    np.testing.assert_allclose(a.covariance.trace(), golden["trace1"], rtol=1e-12)
    np.testing.assert_allclose(b.covariance.trace(), golden["trace2"], rtol=1e-12)
    np.testing.assert_allclose((a.mean - b.mean).square().sum(), golden["mean_dist2"], rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_statistics_do_not_depend_on_the_batches(batch):
    rows = gaussian(500, 12, seed=0, mean=3.0)
    statistics = statistics_of(rows, batch)
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.numpy().T), rtol=1e-11)


def test_merge_of_two_halves_is_the_whole():
    rows = gaussian(300, 8, seed=1)
    first, second, whole = (statistics_of(part) for part in (rows[:37], rows[37:], rows))
    before = second.covariance
    first.merge(second)
    assert first.count == 300
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.covariance, before, rtol=0, atol=0)


def test_merge_with_nothing_changes_nothing():
    statistics = statistics_of(gaussian(30, 4, seed=2))
    mean, covariance = statistics.mean, statistics.covariance
    statistics.merge(FeatureStatistics())
    statistics.update(torch.empty(0, 4))
    copy = FeatureStatistics()
    copy.merge(statistics)
    for same in (statistics, copy):
        assert torch.equal(same.mean, mean)
        assert torch.equal(same.covariance, covariance)
        assert same.count == 30


def test_states_of_the_ranks_add_up_even_with_an_idle_rank():
    rows = gaussian(90, 6, seed=3, mean=5.0)
    idle = FeatureStatistics()
    idle.update(torch.empty(0, 6))
    states = [s.state() for s in (statistics_of(rows[:20]), statistics_of(rows[20:]), idle)]
    together = FeatureStatistics.from_state({key: sum(s[key] for s in states) for key in states[0]})
    assert together.count == 90
    torch.testing.assert_close(together.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.covariance, torch.cov(rows.T), rtol=1e-11, atol=1e-11)


def test_far_from_zero_nothing_cancels():
    rows = gaussian(400, 6, seed=4)
    far = statistics_of(rows + 1e6, batch=32)
    # One pass of sums of products about zero would be wrong in the fourth digit here.
    torch.testing.assert_close(far.covariance, torch.cov(rows.T), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("width", [4, 60])  # rows are joined while they come, or wait for more
def test_to_read_in_between_changes_nothing(width):
    rows = gaussian(50, width, seed=19)
    read, unread = FeatureStatistics(), statistics_of(rows, batch=10)
    for part in rows.split(10):
        read.update(part)
        torch.testing.assert_close(read.covariance, rows[: read.count].T.cov())
    torch.testing.assert_close(read.mean, unread.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(read.covariance, unread.covariance, rtol=1e-12, atol=1e-12)
    assert distance(read, unread) == pytest.approx(0, abs=1e-9)


def test_a_mean_that_was_read_stays_as_it_was():
    statistics = statistics_of(gaussian(10, 3, seed=5))
    mean = statistics.mean
    kept = mean.clone()
    statistics.update(torch.ones(5, 3))
    assert torch.equal(mean, kept)
    assert not torch.equal(statistics.mean, kept)


# FID


def test_fid_matches_the_reference_packages():
    golden = GOLDEN["pairs"]["a64_b64"]
    a, b = statistics_of(features("a64")), statistics_of(features("b64"))
    found = distance(a, b)
    assert found == pytest.approx(golden["fid_pytorch_fid_sqrtm"], rel=1e-11)
    assert found == pytest.approx(golden["fid_eigh_float64"], rel=1e-11)
    assert distance(b, a) == pytest.approx(found, rel=1e-12)
    # These two keep the mean in float32.
    assert found == pytest.approx(golden["fid_torch_fidelity"], abs=1e-5)
    assert found == pytest.approx(GOLDEN["fid_adm"]["a64_b64"], abs=1e-5)


@pytest.fixture
def one_thread():
    """On a busy machine two threads that wait for each other take minutes, one takes seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_fid_matches_the_reference_packages_at_full_width():
    golden = GOLDEN["pairs"]["a2048_b2048"]
    a, b = statistics_of(features("a2048")), statistics_of(features("b2048"))  # a has rank 1999
    found = distance(a, b)
    assert found == pytest.approx(golden["fid_svd_of_features_float64"], rel=1e-11)
    from_moments = frechet_distance(*moments(a), *moments(b))
    assert from_moments == pytest.approx(golden["fid_svd_of_features_float64"], rel=1e-9)
    for others in ("fid_pytorch_fid_sqrtm", "fid_eigh_float64"):  # which see the lost rank as noise
        assert found == pytest.approx(golden[others], abs=1e-4)


def moments(statistics):
    return statistics.mean, statistics.covariance


def by_sqrtm(a, b):
    """As pytorch-fid has it."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    traces = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()
    return traces.item() - 2 * np.trace(root).real


@pytest.mark.parametrize("width", [1, 5, 40])
def test_fid_matches_sqrtm_on_random_covariances(width):
    a = statistics_of(gaussian(200, width, seed=6))
    b = statistics_of(gaussian(300, width, seed=7, mean=0.3))
    assert distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)
    assert frechet_distance(*moments(a), *moments(b)) == distance(a, b)
    theirs = torchmetrics_fid._compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert distance(a, b) == pytest.approx(theirs.item(), rel=1e-9)


@pytest.mark.parametrize("counts", [(200, 15), (15, 200), (15, 20), (40, 41)])
def test_every_form_matches_sqrtm_where_a_covariance_has_not_full_rank(counts):
    """Which sees every lost rank as 1e-8; our forms know better, and agree on more digits."""
    a, b = (
        statistics_of(gaussian(count, 40, seed, mean=seed)) for seed, count in enumerate(counts, 25)
    )
    assert [s.gaussian().of_features for s in (a, b)] == [count <= 40 for count in counts]
    by_features, by_eigenvectors = distance(a, b), frechet_distance(*moments(a), *moments(b))
    assert by_features == pytest.approx(by_eigenvectors, rel=1e-9)
    assert by_features == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    mixed = a.gaussian().distance(Gaussian.of(*moments(b)))
    assert mixed == pytest.approx(by_features, rel=1e-9)


def test_a_factor_gives_the_covariance_and_is_no_larger_than_need_be():
    for count, rank in ((7, 7), (500, 9)):
        statistics = statistics_of(gaussian(count, 9, seed=27))
        mean, factor, _ = statistics.gaussian()
        torch.testing.assert_close(mean, statistics.mean)
        torch.testing.assert_close(factor @ factor.T, statistics.covariance)
        assert factor.shape == (9, rank)
    few = statistics_of(gaussian(7, 9, seed=27))
    factor = Gaussian.of(*moments(few)).factor
    torch.testing.assert_close(factor @ factor.T, few.covariance)
    assert factor.shape == (9, 6)  # of seven images


def test_features_are_known_until_they_are_as_many_as_the_width():
    parts = [statistics_of(part) for part in gaussian(12, 10, seed=28).split(5)]
    whole = FeatureStatistics()
    for part, known in zip(parts, [True, True, False]):  # 5, 10, 12 images
        whole.merge(part)
        assert whole.gaussian().of_features == known
    assert not FeatureStatistics.from_state(parts[0].state()).gaussian().of_features


@pytest.mark.parametrize(("first", "second", "width"), [(90, 70, 11), (33, 150, 24)])
def test_fid_of_fresh_features_is_that_of_torch_fidelity(first, second, width):
    x, y = gaussian(first, width, seed=29), gaussian(second, width, seed=30, mean=0.2)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, y)), verbose=False)
    (expected,) = theirs.values()
    assert distance(statistics_of(x), statistics_of(y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [2, 10, 64, 65, 500])
def test_fid_of_few_images_matches_the_singular_values_of_the_features(rows):
    # With centred X, Y the trace of the root is |X Y^T|_* / sqrt((n - 1)(m - 1)) at any rank.
    x, y = features("a64")[:rows].double(), features("b64")[:300].double()
    overlap = np.linalg.svd((x - x.mean(0)) @ (y - y.mean(0)).T, compute_uv=False).sum()
    traces = x.var(0).sum() + y.var(0).sum() + (x.mean(0) - y.mean(0)).square().sum()
    expected = traces.item() - 2 * overlap / np.sqrt((rows - 1) * 299)
    assert distance(statistics_of(x), statistics_of(y)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rows", [3, 30, 100])
def test_fid_of_a_set_with_itself_is_zero_and_never_below(rows):
    for part in features("a64").split(rows)[:20]:  # rounding goes either way
        statistics = statistics_of(part)
        assert 0 <= distance(statistics, statistics) < 1e-10


def test_fid_of_constant_and_of_single_coordinates():
    # In one dimension: (m1 - m2)^2 + (s1 - s2)^2.
    assert frechet_distance(
        np.ones(1), 4 * np.eye(1), 3 * np.ones(1), 25 * np.eye(1)
    ) == pytest.approx(4 + 9, rel=1e-14)
    zero, eye = np.zeros((3, 3)), np.eye(3)
    assert frechet_distance(np.zeros(3), zero, np.ones(3), zero) == 3.0
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), eye) == 3.0


def test_fid_does_not_depend_on_the_origin_or_the_axes():
    x, y = gaussian(100, 10, seed=8), gaussian(120, 10, seed=9)
    turn = torch.linalg.qr(gaussian(10, 10, seed=10)).Q
    expected = distance(statistics_of(x), statistics_of(y))
    assert expected > 1
    assert distance(statistics_of(x + 1e4), statistics_of(y + 1e4)) == pytest.approx(
        expected, rel=1e-9
    )
    assert distance(statistics_of(x @ turn), statistics_of(y @ turn)) == pytest.approx(expected)


# A user's mistakes


def say(sentence):
    return pytest.raises(UserError, match=f"^{re.escape(sentence)}$")


def test_too_few_images_are_refused():
    statistics = FeatureStatistics()
    with say("A mean: at least 1 images are needed, got 0; raise num_images."):
        _ = statistics.mean
    statistics.update(torch.ones(1, 3))
    with say("A covariance: at least 2 images are needed, got 1; raise num_images."):
        _ = statistics.covariance


def test_widths_that_differ_are_refused():
    remedy = "take both from the same layer of the same network."
    statistics = statistics_of(torch.ones(2, 3))
    with say(f"The features and those before have widths 4 and 3: {remedy}"):
        statistics.update(torch.ones(2, 4))
    with say(f"The features and those before have widths 4 and 3: {remedy}"):
        statistics.merge(statistics_of(torch.ones(2, 4)))
    assert statistics.count == 2
    two, three = statistics_of(gaussian(9, 2, seed=17)), statistics_of(gaussian(9, 3, seed=18))
    with say(f"The first mean and the second mean have widths 2 and 3: {remedy}"):
        distance(two, three)
    with say(f"The mean and the covariance have widths 2 and 3: {remedy}"):
        frechet_distance(two.mean, two.covariance, two.mean, three.covariance)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(bad):
    rows = torch.zeros(12, 2)
    rows[5, 1] = bad
    remedy = "hold NaN or infinity: look at the weights and images behind them."
    with say(f"The features {remedy}"):
        FeatureStatistics().update(rows)
    with say(f"The covariances {remedy}"):
        frechet_distance(rows[0], torch.eye(2), rows[0], torch.eye(2) * bad)


def test_feature_maps_are_refused():
    with say("The features have shape (2, 3, 4, 4): flatten them to one row an image."):
        FeatureStatistics().update(torch.zeros(2, 3, 4, 4))
