import pickle

import numpy as np
import pytest

from MaskGIL.data.sampler import Sampler, split_ranks, spread
from Network.config import UserError


def labels(counts, skipped=0, seed=0):
    values = np.repeat(np.arange(len(counts)), counts)
    values = np.concatenate([values, np.full(skipped, -1)])
    return np.random.default_rng(seed).permutation(values)


def stream(sampler, num_steps, first=0):
    parts = [sampler.rows(step) for step in range(first, first + num_steps)]
    return [np.concatenate(arrays) for arrays in zip(*parts)]


@pytest.mark.parametrize("batch", [1, 7, 32, 100, 1000])
def test_an_epoch_has_every_row_once(batch):
    values = labels([40, 30, 27], skipped=3)
    rows, _, samples = stream(Sampler(values, batch, seed=1), -(-97 * 3 // batch))
    assert samples.tolist() == list(range(len(rows)))
    for epoch in range(3):
        part = rows[epoch * 97 : (epoch + 1) * 97]
        assert sorted(part) == np.flatnonzero(values >= 0).tolist()
    assert rows[:97].tolist() != rows[97:194].tolist()
    assert rows[:97].tolist() != sorted(rows[:97])


@pytest.mark.parametrize("balance", [0.0, 0.4, 1.0])
def test_pure_function_of_seed_and_step(balance):
    values = labels([50, 5, 200], skipped=4)
    one = Sampler(values, 16, 3, balance, num_crops=10)
    history = [one.rows(step) for step in range(60)]
    for step in (59, 0, 31, 17):  # neither order nor history matters
        fresh = Sampler(values, 16, 3, balance, num_crops=10).rows(step)
        again = one.rows(step)
        for expected, a, b in zip(history[step], fresh, again):
            assert a.dtype == np.int64
            np.testing.assert_array_equal(expected, a)
            np.testing.assert_array_equal(expected, b)
    other = Sampler(values, 16, 4, balance, num_crops=10).rows(0)
    assert other[0].tolist() != history[0][0].tolist()
    assert other[1].tolist() != history[0][1].tolist()


@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_stream_does_not_depend_on_the_batch(balance):
    values = labels([50, 5, 200])
    large = stream(Sampler(values, 60, 3, balance, 2), 10)
    small = stream(Sampler(values, 15, 3, balance, 2), 40)
    for a, b in zip(large, small):
        np.testing.assert_array_equal(a, b)


def test_changing_what_it_returned_does_not_change_the_sampler():
    sampler = Sampler(labels([64]), 16, 0)
    first = sampler.rows(0)[0]
    expected = first.copy()
    first[:] = -5
    np.testing.assert_array_equal(sampler.rows(0)[0], expected)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_frequencies(balance):
    counts = np.array([1600, 400, 100, 4])
    values = labels(counts, skipped=50)
    rows, _, _ = stream(Sampler(values, 2104, 0, balance), 3)
    found = np.bincount(values[rows], minlength=4)
    expected = counts ** (1 - balance) / (counts ** (1 - balance)).sum()
    np.testing.assert_allclose(found / len(rows), expected, atol=4 / 2104)
    assert values[rows].min() >= 0


def test_balanced_rows_take_turns():
    values = labels([300, 40, 3], skipped=9)
    rows, _, _ = stream(Sampler(values, 343, 0, balance=1.0), 7)
    for label in range(3):
        uses = np.bincount(rows, minlength=len(values))[values == label]
        assert uses.max() - uses.min() <= 1
    assert len({tuple(rows[start : start + 343]) for start in range(0, len(rows), 343)}) == 7


def test_every_class_appears_however_small():
    values = labels([100_000] + [1] * 20)
    rows, _, _ = stream(Sampler(values, 100_020, 0, balance=0.01), 1)
    assert np.bincount(values[rows]).min() >= 1


def test_balance_of_single_rows():
    values = labels([1, 1, 1])  # no draw is left to share out
    rows, _, _ = stream(Sampler(values, 3, 0, balance=1.0), 2)
    assert sorted(rows[:3]) == sorted(rows[3:]) == [0, 1, 2]


def test_neighbours_are_independent():
    rows, _, _ = stream(Sampler(labels([4096]), 4096, 0), 2)
    rank = rows.argsort()[:4096] / 4096
    assert abs(np.corrcoef(rows[:4095], rows[1:4096])[0, 1]) < 0.06  # 4 standard errors
    assert abs(np.corrcoef(rows[:4096], rows[4096:])[0, 1]) < 0.06
    assert abs(np.corrcoef(rank, np.arange(4096))[0, 1]) < 0.06


def test_crops_are_uniform_and_fresh_in_each_epoch():
    rows, crops, _ = stream(Sampler(labels([1000]), 1000, 0, num_crops=10), 10)
    counts = np.bincount(crops, minlength=10)
    assert len(counts) == 10
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001
    seen = np.zeros((1000, 10), bool)
    seen[rows, crops] = True
    assert abs(seen.mean() - (1 - 0.9**10)) < 0.02  # ten independent draws of ten
    assert set(stream(Sampler(labels([1000]), 100, 0), 2)[1]) == {0}


def test_nothing_to_draw():
    with pytest.raises(UserError, match=r"no readable image; see bad_files.txt"):
        Sampler(np.array([-1, -1]), 4, 0)
    with pytest.raises(UserError, match=r"data.balance=1.5 lies outside 0"):
        Sampler(np.array([0, 1]), 4, 0, balance=1.5)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (4, 1), (2, 2), (1, 4), (3, 4)])
def test_parts_cover_the_batch(world_size, accumulation):
    parts = split_ranks(48, world_size, accumulation)
    assert len(parts) == world_size
    assert {len(of_rank) for of_rank in parts} == {accumulation}
    positions = [np.arange(48)[part] for of_rank in parts for part in of_rank]
    assert len({len(part) for part in positions}) == 1
    assert np.concatenate(positions).tolist() == list(range(48))


def test_indivisible_batch_names_the_nearest():
    with pytest.raises(UserError) as error:
        split_ranks(256, 6, 1)
    assert str(error.value) == (
        "optim.batch=256 is not divisible by 6, the number of ranks (6) times "
        "loop.accumulation (1); nearest: 252, 258."
    )
    with pytest.raises(
        UserError, match=r"by 8, .* \(4\) times loop.accumulation \(2\); nearest: 8"
    ):
        split_ranks(3, 4, 2)


def test_a_sampler_travels_to_workers_that_are_spawned():
    sampler = Sampler(np.arange(40) % 4, 8, 1, balance=0.5)
    sampler.rows(3)
    for found, expected in zip(pickle.loads(pickle.dumps(sampler)).rows(7), sampler.rows(7)):
        assert np.array_equal(found, expected)


def test_rows_are_spread_from_the_first_to_the_last():
    assert spread(9, 3).tolist() == [0, 4, 8]
    assert spread(3, 9).tolist() == [0, 1, 2]
    assert (spread(0, 5).tolist(), spread(5, 0).tolist()) == ([], [])
    assert len(set(spread(1_281_167, 2048).tolist())) == 2048
