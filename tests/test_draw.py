"""The draw of tokens against its law, computed in float64."""

import pytest
import torch
from scipy.stats import chisquare

from MaskGIL.draw import draw_tokens, temperature_at, truncate
from MaskGIL.guidance import PartLogits
from MaskGIL.noise import uniform
from MaskGIL.sampling import SamplingConfig


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LAW = torch.tensor([0.1, 0.0, 0.45, 0.2, 0.0, 0.25, 0.0])


def draw(logits, noise, temperature=1.0, **settings):
    return draw_tokens(logits, noise, SamplingConfig(**settings), temperature)


def uniforms(rows, columns):
    return uniform(torch.arange(rows)[:, None], "token", 0, torch.arange(columns))


def test_codes_share_the_unit_interval():
    """Inverse CDF: evenly spaced uniforms give each code its share exactly."""
    noise = ((torch.arange(2000) + 0.5) / 2000)[None]
    tokens, _ = draw(LAW.log().expand(1, 2000, -1), noise)
    assert torch.bincount(tokens[0], minlength=7).tolist() == (2000 * LAW).round().tolist()
    assert (tokens[0].diff() >= 0).all()


# Several blocks of codes, of which the last one need not be full
@pytest.mark.parametrize("num_codes", [1, 7, 128, 129, 1000, 16384])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_those_of_a_plain_inverse_cdf(num_codes, temperature):
    logits, noise = 3 * random(20, 30, num_codes), uniforms(20, 30)
    logits[:, ::2, num_codes // 3 : num_codes // 2] = -torch.inf
    found, log_probability = draw(logits, noise, temperature)
    ends = (logits.double() / temperature).softmax(-1).cumsum(-1)
    expected = torch.searchsorted(ends, noise.double()[..., None], right=True)[..., 0]
    # A uniform of 23 bits and sums in float32 cannot tell a border nearer than that
    clear = (ends - noise.double()[..., None]).abs().amin(-1) > 1e-6
    assert torch.equal(found[clear], expected[clear])
    assert clear.float().mean() > 0.9
    plain = logits.double().log_softmax(-1).gather(-1, found[..., None])[..., 0]
    torch.testing.assert_close(log_probability.double(), plain, rtol=1e-5, atol=1e-5)


def test_rows_are_drawn_alike_however_many_there_are():
    logits, noise = 3 * random(7, 100, 300), uniforms(7, 100)
    every = torch.stack(draw(logits, noise))
    assert torch.equal(torch.stack(draw(logits[:, 40:43], noise[:, 40:43])), every[:, :, 40:43])


SMALLEST, LARGEST = 2.0**-24, 1 - 2.0**-24  # of `noise.uniform`


@pytest.mark.parametrize("num_codes", [1, 2, 7, 300, 16384])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e38])
@pytest.mark.parametrize("temperature", [1e-6, 0.5, 1.0, 2.0])
def test_extreme_uniforms_draw_possible_codes(num_codes, scale, temperature):
    logits = scale * random(3, 2, num_codes).clamp(-3, 3)
    middle = num_codes // 2
    logits[..., middle + 1 :] = -torch.inf  # the last ones cannot be drawn
    logits[..., : middle // 2] = -torch.inf  # nor the first ones
    for noise in (SMALLEST, LARGEST):
        tokens, log_probability = draw(logits, torch.full((3, 2), noise), temperature)
        assert tokens.min() >= middle // 2
        assert tokens.max() <= middle
        assert not log_probability.isnan().any()
        assert (log_probability <= 1e-5).all()


@pytest.mark.parametrize("only", [0, 5, 127, 128, 299])
def test_the_only_possible_code_is_drawn(only):
    logits = torch.full((2, 2, 300), -torch.inf)
    logits[..., only] = -7.0
    noise = torch.tensor([[SMALLEST, LARGEST], [0.5, 0.999]])
    tokens, log_probability = draw(logits, noise)
    assert (tokens == only).all()
    assert not log_probability.any()


def test_codes_far_less_likely_than_others_are_reached():
    """Half of the mass lies in one block, the other half in two codes of others."""
    law = torch.zeros(16384)
    law[128:256], law[3], law[16383] = 0.5 / 128, 0.25, 0.25
    noise = ((torch.arange(4096) + 0.5) / 4096)[None]
    counts = torch.bincount(draw(law.log().expand(1, 4096, -1), noise)[0][0], minlength=16384)
    assert counts.tolist() == (4096 * law).int().tolist()


# Temperature


def test_temperature_runs_from_the_first_to_the_last():
    at = [0.0, 0.5, 1.0]
    rising = SamplingConfig(temperature=1.0, last_temperature=1.2)
    assert [temperature_at(rising, progress) for progress in at] == pytest.approx([1, 1.1, 1.2])
    falling = SamplingConfig(temperature=0.5, last_temperature=0.0)
    assert [temperature_at(falling, progress) for progress in at] == [0.5, 0.25, 0]
    assert [temperature_at(SamplingConfig(temperature=0.7), p) for p in at] == [0.7] * 3


def test_temperature_zero_is_greedy_whatever_the_truncation():
    logits = random(3, 5, 40)
    truncated = {"top_k": 3, "top_p": 0.5, "min_p": 0.1}
    for settings in ({}, truncated):
        tokens, log_probability = draw(logits, uniforms(3, 5), 0.0, **settings)
        assert torch.equal(tokens, logits.argmax(-1))
        torch.testing.assert_close(log_probability, logits.log_softmax(-1).amax(-1))


# Truncation


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 4])
def test_law_under_temperature_and_truncation(temperature, top_k):
    logits = 2 * random(20)
    noise = uniforms(200, 100)
    found, log_probability = draw(logits.expand(200, 100, -1), noise, temperature, top_k=top_k)
    law = (logits.double() / temperature).exp()
    if top_k:
        law[logits.argsort()[:-top_k]] = 0
    counts, kept = torch.bincount(found.flatten(), minlength=20), law > 0
    assert not counts[~kept].any()
    expected = (law / law.sum() * 20000)[kept].numpy()
    assert top_k == 1 or chisquare(counts[kept].numpy(), expected).pvalue > 0.001
    # The confidence is that of the logits as they came
    plain = logits.double().log_softmax(0)[found]
    torch.testing.assert_close(log_probability.double(), plain, rtol=1e-5, atol=1e-5)


def test_top_k_is_of_each_row():
    logits = torch.tensor([[[3.0, 2, 1, 0], [0, 1, 2, 3.0]]]).expand(500, -1, -1)
    tokens, _ = draw(logits, uniforms(500, 2), top_k=2)
    assert set(tokens[:, 0].tolist()) == {0, 1}
    assert set(tokens[:, 1].tolist()) == {2, 3}


PEAKED = torch.tensor([[0.05, 0.4, 0.1, 0.2, 0.25]])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.01}, [1]),  # the most likely one, always
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.6}, [1, 4]),  # 0.4 + 0.25 is the first sum to reach it
        ({"top_p": 0.66}, [1, 3, 4]),
        ({"top_p": 0.97}, [0, 1, 2, 3, 4]),
        ({"min_p": 0.3}, [1, 3, 4]),  # at least 0.12
        ({"min_p": 0.7}, [1]),
        ({"top_k": 3, "top_p": 0.7}, [1, 4]),  # 0.65 of the 0.85 that are left: 0.76
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.6}, [1, 4]),
    ],
)
def test_which_codes_are_kept(settings, kept):
    found = truncate(PEAKED, SamplingConfig(**settings))
    expected = torch.zeros_like(PEAKED)
    expected[:, kept] = PEAKED[:, kept]
    assert torch.equal(found, expected)


def test_codes_as_likely_as_the_last_kept_one_are_kept():
    law = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    for settings in ({"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}):
        assert torch.equal(truncate(law, SamplingConfig(**settings)), law)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("settings", [{"top_p": 0.8}, {"min_p": 0.1}], ids=["top_p", "min_p"])
def test_law_under_truncation(settings, temperature):
    """Kept codes keep their proportions; which ones they are follows from the tempered law."""
    logits = 2 * random(300, seed=3)
    found, log_probability = draw(logits.expand(200, 100, -1), uniforms(200, 100), temperature,
                                  **settings)  # fmt: skip
    law = (logits.double() / temperature).softmax(-1)
    falling = law.sort(descending=True)
    if "top_p" in settings:
        count = int((falling.values.cumsum(0) < 0.8).sum()) + 1
    else:
        count = int((falling.values >= 0.1 * falling.values[0]).sum())
    kept = falling.indices[:count]
    assert 5 < count < 150
    counts = torch.bincount(found.flatten(), minlength=300)
    assert counts.sum() == counts[kept].sum()
    expected = 20000 * law[kept] / law[kept].sum()
    assert chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 0.001
    plain = logits.double().log_softmax(0)[found]
    torch.testing.assert_close(log_probability.double(), plain, rtol=1e-5, atol=1e-5)


# Tokens in parts


class Parts:
    """Twelve codes in parts of 4 and 3; the law of the second depends on the first."""

    sizes = (4, 3)
    low = torch.tensor([0.5, -1.0, 1.5, 0.0])
    high = torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.0, -1.0], [0.3, 0.2, 0.1], [2.0, -2.0, 0.0]])

    def part_logits(self, hidden, earlier):
        shape = hidden.shape[:-1]
        return self.high[earlier[0]] if earlier else self.low.expand(*shape, -1)

    def join(self, parts):
        return parts[0] + 4 * parts[1]


def law_of_parts(temperature):
    """P(low) p(high | low), each tempered, by token = low + 4 high."""
    low = (Parts.low.double() / temperature).softmax(-1)
    high = (Parts.high.double() / temperature).softmax(-1)
    return (low[:, None] * high).T.flatten()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_law_of_tokens_in_parts(temperature):
    logits = PartLogits(Parts(), [torch.zeros(200, 100, 1)])
    seeds, positions = torch.arange(200)[:, None], torch.arange(100)
    noise = [uniform(seeds, "token", 0, positions + 100 * part) for part in (0, 1)]
    found, log_probability = draw_tokens(logits, noise, SamplingConfig(), temperature)
    counts = torch.bincount(found.flatten(), minlength=12).numpy()
    law = 20000 * law_of_parts(temperature).numpy()
    assert chisquare(counts, law).pvalue > 0.001
    wrong = 20000 * law_of_parts(1.2 * temperature).numpy()
    assert chisquare(counts, wrong).pvalue < 1e-6
    same = draw_tokens(logits, [noise[0], noise[0]], SamplingConfig(), temperature)[0]
    assert chisquare(torch.bincount(same.flatten(), minlength=12).numpy(), law).pvalue < 1e-6
    plain = law_of_parts(1.0).log()[found]  # of the logits as they came
    torch.testing.assert_close(log_probability.double(), plain, rtol=1e-5, atol=1e-5)


def test_top_k_truncates_every_part():
    logits = PartLogits(Parts(), [torch.zeros(50, 40, 1)])
    noise = [uniform(torch.arange(50)[:, None], "token", 0, torch.arange(40) + n) for n in (0, 40)]
    found, _ = draw_tokens(logits, noise, SamplingConfig(top_k=1), 1.0)
    assert set(found.flatten().tolist()) == {2 + 4 * 0}  # the likeliest low, then high part
