"""Expected numbers: SplitMix64 on Python's own integers."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from MaskGIL import noise
from MaskGIL.noise import STREAMS, random_bits, seed_of, uniform

WRAP = 2**64


def mix(z):
    """SplitMix64's finaliser (Steele, Lea & Flood, 2014, figure 19)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WRAP
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WRAP
    return z ^ (z >> 31)


def plain_bits(seed, stream, step, position):
    state = mix((seed + 0x9E3779B97F4A7C15) % WRAP)
    for counter in (STREAMS[stream], step, position):
        state = mix((state + (counter + 1) * 0x9E3779B97F4A7C15) % WRAP)
    return state


def signed(bits):
    return bits - WRAP if bits >= WRAP // 2 else bits


def test_the_plain_hash_is_splitmix64():
    """First numbers of seed 1234567, as published on Rosetta Code (Splitmix64)."""
    found = [mix((1234567 + k * 0x9E3779B97F4A7C15) % WRAP) for k in (1, 2, 3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


COUNTERS = [0, 1, -1, 255, 2**31, 2**62 + 12345, 2**63 - 2, -(2**63)]


@pytest.mark.parametrize("stream", STREAMS)
def test_equals_the_hash_on_plain_integers(stream):
    numbers = torch.tensor(COUNTERS)
    found = random_bits(numbers[:, None, None], stream, numbers[:, None], numbers)
    assert found.dtype == torch.int64
    for i, seed in enumerate(COUNTERS):
        for j, step in enumerate(COUNTERS):
            expected = [signed(plain_bits(seed, stream, step, position)) for position in COUNTERS]
            assert found[i, j].tolist() == expected


def test_a_uniform_is_the_top_23_bits():
    seeds, positions = torch.arange(50), torch.arange(40)
    found = uniform(seeds[:, None], "token", 7, positions)
    assert found.dtype == torch.float32
    for seed in range(50):
        for position in range(40):
            top = plain_bits(seed, "token", 7, position) >> 41
            assert found[seed, position].item() == (top + 0.5) / 2**23


@pytest.mark.parametrize("bits", [0, -1, 2**63 - 1, -(2**63), 2**41 - 1])
def test_the_interval_is_open(monkeypatch, bits):
    monkeypatch.setattr(noise, "random_bits", lambda *counters: torch.tensor([bits]))
    found = uniform(torch.tensor([0]), "token", 0, 0)
    assert 0 < found.item() < 1
    assert found.log().isfinite()
    assert (-torch.log(-torch.log(found))).isfinite()  # as Gumbel noise


def test_neither_batch_nor_order_matters():
    seeds, positions = torch.randint(2**62, (9,)), torch.arange(64)
    every = uniform(seeds[:, None], "token", 3, positions)
    order = torch.randperm(9)
    assert torch.equal(uniform(seeds[order][:, None], "token", 3, positions), every[order])
    for image, seed in enumerate(seeds):
        assert torch.equal(uniform(seed, "token", 3, positions), every[image])
    rows = torch.stack([torch.randperm(64)[:5] for _ in range(9)])
    assert torch.equal(uniform(seeds[:, None], "token", 3, rows), every.gather(1, rows))
    steps = torch.arange(4)[:, None, None]
    assert torch.equal(uniform(seeds[:, None], "token", steps, positions)[3], every)


# Each counter in turn runs over many values, the others stand still
RUNS = {
    "seed": lambda n: uniform(torch.arange(n), "token", 0, 0),
    "step": lambda n: uniform(torch.tensor(5), "token", torch.arange(n), 0),
    "position": lambda n: uniform(torch.tensor(5), "token", 0, torch.arange(n)),
    "image seed": lambda n: uniform(random_bits(torch.tensor(0), "seed", 0, torch.arange(n)),
                                    "token", 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_uniform_over_each_counter(run):
    values = RUNS[run](2**18).double().numpy()
    assert chisquare(np.histogram(values, 1024, (0, 1))[0]).pvalue > 0.001
    fine = (values * 2**23).astype(int) % 256  # the lowest bits as well
    assert chisquare(np.bincount(fine, minlength=256)).pvalue > 0.001


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("lag", [1, 2, 16, 256])
def test_neighbours_are_independent(run, lag):
    values = (RUNS[run](2**18).double() * 32).long()
    pairs = values[:-lag] * 32 + values[lag:]
    assert chisquare(torch.bincount(pairs, minlength=1024).numpy()).pvalue > 0.001


def test_streams_and_counters_are_independent():
    positions = torch.arange(2**16)
    seed = torch.tensor(0)
    runs = [uniform(seed, stream, 0, positions) for stream in STREAMS]
    runs += [uniform(seed, "order", 1, positions), uniform(seed + 1, "order", 0, positions)]
    runs += [uniform(seed, "order", positions, 0)]  # step and position do not swap
    for index, first in enumerate(runs):
        for second in runs[:index]:
            table = torch.zeros(16, 16)
            table.index_put_(((first * 16).long(), (second * 16).long()), torch.ones(1), True)
            assert chi2_contingency(table.numpy()).pvalue > 1e-4  # 91 pairs


def test_every_stream_has_its_own_number():
    assert len(set(STREAMS.values())) == len(STREAMS)
    with pytest.raises(KeyError):
        uniform(torch.tensor(0), "nothing", 0, 0)


def test_one_seed_of_several_numbers():
    found = {seed_of(a, b, c) for a in range(-2, 20) for b in range(20) for c in (0, 1, 2**62)}
    assert len(found) == 22 * 20 * 3
    assert all(0 <= seed < 2**63 for seed in found)
    assert seed_of(1, 2) != seed_of(2, 1)
    assert seed_of(3) != seed_of(3, 0)
    np.random.default_rng(seed_of(5, 6))
    torch.Generator().manual_seed(seed_of(5, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("function", [random_bits, uniform])
def test_the_device_does_not_matter(function):
    seeds, positions = torch.randint(-(2**62), 2**62, (64, 1)), torch.arange(1024)
    found = function(seeds.to("cuda"), "token", 11, positions.to("cuda"))
    assert torch.equal(found.cpu(), function(seeds, "token", 11, positions))
