import pytest
import torch
from scipy.stats import chisquare

from MaskGIL.guidance import GUIDANCE, PartLogits, draw_tokens, guide
from MaskGIL.noise import uniform
from MaskGIL.sampling import SamplingConfig


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.0, 0.3, 0.5, 1.0, 1.5, 3.0, 20.0])
def test_guidance_is_its_formula_in_every_channel(scale):
    conditional, null = random(2, 3, 50), random(2, 3, 50, seed=1)
    expected = null.double() + scale * (conditional.double() - null.double())
    found = guide(conditional, null, scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    if scale in (0.0, 1.0):
        assert torch.equal(found, conditional if scale else null)


def test_guidance_of_half_precision_is_wide():
    conditional, null = random(4, 50).bfloat16(), random(4, 50, seed=1).bfloat16()
    assert torch.equal(guide(conditional, null, 3.0), guide(conditional.float(), null.float(), 3.0))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_ramps(scale):
    ramps = {name: [at(scale, i / 4) for i in range(5)] for name, at in GUIDANCE.items()}
    assert ramps["constant"] == [scale] * 5
    step = (scale - 1) / 4
    assert ramps["linear"] == pytest.approx([1, 1 + step, 1 + 2 * step, 1 + 3 * step, scale])
    assert ramps["linear"][0] == 1  # exactly: then no null pass is made


# Drawing


LAW = torch.tensor([0.1, 0.0, 0.45, 0.2, 0.0, 0.25, 0.0])


def draw(logits, noise, **settings):
    return draw_tokens(logits, noise, SamplingConfig(**settings))


def test_codes_share_the_unit_interval():
    """Inverse CDF: evenly spaced uniforms give each code its share exactly."""
    noise = ((torch.arange(2000) + 0.5) / 2000)[None]
    tokens, _ = draw(LAW.log().expand(1, 2000, -1), noise)
    assert torch.bincount(tokens[0], minlength=7).tolist() == (2000 * LAW).round().tolist()
    assert (tokens[0].diff() >= 0).all()


@pytest.mark.parametrize("num_codes", [1, 2, 7, 16384])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_extreme_uniforms_draw_possible_codes(num_codes, scale):
    logits = scale * random(3, 2, num_codes)
    logits[..., num_codes // 2 + 1 :] = -torch.inf  # the last ones cannot be drawn
    smallest, largest = 2.0**-24, 1 - 2.0**-24  # of `noise.uniform`
    for noise in (smallest, largest):
        tokens, log_probability = draw(logits, torch.full((3, 2), noise))
        assert tokens.min() >= 0
        assert tokens.max() <= num_codes // 2
        assert log_probability.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 4])
def test_law_under_temperature_and_truncation(temperature, top_k):
    logits = 2 * random(20)
    noise = uniform(torch.arange(200)[:, None], "token", 0, torch.arange(100))
    found, log_probability = draw(
        logits.expand(200, 100, -1), noise, temperature=temperature, top_k=top_k
    )
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
    noise = uniform(torch.arange(500)[:, None], "token", 0, torch.arange(2))
    tokens, _ = draw(logits, noise, top_k=2)
    assert set(tokens[:, 0].tolist()) == {0, 1}
    assert set(tokens[:, 1].tolist()) == {2, 3}


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
    found, log_probability = draw_tokens(logits, noise, SamplingConfig(temperature=temperature))
    counts = torch.bincount(found.flatten(), minlength=12).numpy()
    law = 20000 * law_of_parts(temperature).numpy()
    assert chisquare(counts, law).pvalue > 0.001
    wrong = 20000 * law_of_parts(1.2 * temperature).numpy()
    assert chisquare(counts, wrong).pvalue < 1e-6
    same = draw_tokens(logits, [noise[0], noise[0]], SamplingConfig(temperature=temperature))[0]
    assert chisquare(torch.bincount(same.flatten(), minlength=12).numpy(), law).pvalue < 1e-6
    plain = law_of_parts(1.0).log()[found]  # of the logits as they came
    torch.testing.assert_close(log_probability.double(), plain, rtol=1e-5, atol=1e-5)


def test_top_k_truncates_every_part():
    logits = PartLogits(Parts(), [torch.zeros(50, 40, 1)])
    noise = [uniform(torch.arange(50)[:, None], "token", 0, torch.arange(40) + n) for n in (0, 40)]
    found, _ = draw_tokens(logits, noise, SamplingConfig(top_k=1))
    assert set(found.flatten().tolist()) == {2 + 4 * 0}  # the likeliest low, then high part
