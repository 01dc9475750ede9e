"""The decoding loop, with predictors whose logits are whole numbers: nothing rounds."""

from itertools import pairwise, product

import pytest
import tiny
import torch
from scipy.stats import binomtest, chisquare

from MaskGIL.decoding import decode
from MaskGIL.masking import SCHEDULES
from MaskGIL.noise import uniform
from MaskGIL.orders import BLIND, ORDERS, REMASK
from MaskGIL.plans import Step, ar_plan, hybrid_plan, mar_plan
from MaskGIL.predictor import CausalPredictor, GuidedPredictor
from MaskGIL.sampling import SamplingConfig

CODES, MASK = 7, 7
SAMPLINGS = [
    SamplingConfig(),
    SamplingConfig(noise=0),
    SamplingConfig(temperature=0.6, top_k=3),
    SamplingConfig(remask=0.4, remask_by="confidence"),
]


class Toy:
    """Logits of position, code, and every visible token of the image."""

    def __init__(self):
        self.started, self.progress, self.num_rows = [], [], []

    def start(self, tokens):
        self.started.append(tokens.clone())

    def __call__(self, tokens, rows, progress):
        self.progress.append(progress)
        self.num_rows.append(rows.shape[1])
        seen = tokens.flatten(1)
        seen = (seen * (seen != MASK) * torch.arange(3, 3 + seen.shape[1])).sum(1)
        mixed = rows[..., None] * 31 + torch.arange(CODES) * 17 + seen[:, None, None] * 13
        return mixed % 23 / 4


class Raster:
    """Logits of a position, code, and the tokens before it; it reads nothing else."""

    def __init__(self):
        self.rows, self.progress = [], []

    def start(self, tokens):
        pass

    def __call__(self, tokens, rows, progress):
        self.rows.append(rows[0].tolist())
        self.progress.append(progress)
        assert (rows == rows[0]).all()
        row = self.rows[-1][-1]
        seen = (tokens.flatten(1)[:, :row] * torch.arange(3, 3 + row)).sum(1)
        mixed = row * 31 + torch.arange(CODES) * 17 + seen[:, None] * 13
        return (mixed % 23 / 4)[:, None]


class Constant:
    """The same logits everywhere."""

    def __init__(self, logits):
        self.logits = torch.tensor(logits)

    def start(self, tokens):
        pass

    def __call__(self, tokens, rows, progress):
        return self.logits.expand(*rows.shape, -1)


def empty(batch, *grid):
    return torch.full((batch, *grid), MASK)


def partly_hidden(*num_hidden, grid=(4, 4), seed=0):
    """An image per number; hidden positions at random."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(CODES, (len(num_hidden), grid[0] * grid[1]), generator=generator)
    for image, count in zip(tokens, num_hidden):
        image[torch.randperm(len(image), generator=generator)[:count]] = MASK
    return tokens.view(-1, *grid)


def run(tokens, plan, seeds=None, sampling=SAMPLINGS[0], predictor=None, on_step=None):
    seeds = torch.arange(len(tokens)) if seeds is None else seeds
    predictors = predictor or {"ar": Raster(), "mar": Toy()}
    return decode(predictors, tokens, plan, seeds, mask_id=MASK, sampling=sampling, on_step=on_step)


# The loop


@pytest.mark.parametrize("num_ar", [0, 5, 16])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_steps", [1, 3, 11])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_hidden_tokens_are_filled_and_given_ones_stay(sampling, num_steps, order, num_ar):
    tokens = partly_hidden(0, 1, 2, 9, 16, 15)
    before = tokens.clone()
    found = run(tokens, hybrid_plan(16, num_ar, num_steps, order=order), sampling=sampling)
    given = before != MASK
    assert found.shape == before.shape
    assert torch.equal(found[given], before[given])
    assert found.min() >= 0
    assert found.max() < CODES
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("num_ar", [0, 5])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_steps", [1, 4, 6, 7, 11])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_batch_does_not_matter(sampling, num_steps, order, num_ar):
    """Also where a step of the plan reveals something in one image and nothing in another."""
    tokens = partly_hidden(*range(11))
    plan, seeds = hybrid_plan(16, num_ar, num_steps, "linear", order), torch.arange(100, 111)
    together = run(tokens, plan, seeds, sampling)
    shuffled = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    found = run(tokens[shuffled], plan, seeds[shuffled], sampling)
    assert torch.equal(found, together[shuffled])
    for image in range(11):
        alone = run(tokens[image, None], plan, seeds[image, None], sampling)
        assert torch.equal(alone[0], together[image])


def test_the_batch_does_not_matter_to_a_network():
    network, plan = tiny.network().float(), mar_plan(16, 5)
    labels, seeds = torch.tensor([0, 2, 1, 0]), torch.tensor([5, 5, 6, 7])

    def sample(images):
        predictor = GuidedPredictor(network, labels[images], tiny.guided("linear", 3.0))
        tokens = torch.full((len(images), 4, 4), network.mask_id)
        sampling = SamplingConfig()
        return decode(predictor, tokens, plan, seeds[images], mask_id=11, sampling=sampling)

    together = sample([0, 1, 2, 3])
    assert torch.equal(sample([2, 0]), together[[2, 0]])
    assert len({str(image.tolist()) for image in together}) == 4  # label and seed matter


def test_seeds_matter():
    plan = mar_plan(16, 4)
    found = run(empty(6, 4, 4), plan, torch.tensor([0, 1, 2, 0, 1, -9]))
    assert torch.equal(found[:2], found[3:5])
    assert len({str(image.tolist()) for image in found}) == 4
    flat = Constant([0.0] * CODES)
    columns = run(empty(50, 4, 4), plan, predictor=flat).flatten(1)
    assert all(len(set(column.tolist())) == CODES for column in columns.T)  # positions differ


def test_each_step_reveals_its_share():
    tokens, plan, frames = partly_hidden(16, 10, 0), mar_plan(16, 5), []
    predictor = Toy()
    found = run(tokens, plan, predictor=predictor, on_step=lambda i, t, c: frames.append((i, t)))
    assert [index for index, _ in frames] == list(range(5))
    assert torch.equal(frames[-1][1], found)
    revealed = 0
    for (_, frame), step in zip(frames, plan):
        assert frame.shape == tokens.shape
        revealed += step.count
        hidden = (frame == MASK).flatten(1).sum(1).tolist()
        assert hidden == [16 - revealed, 10 - int(10 * revealed / 16 + 0.5), 0]
    for (_, earlier), (_, later) in pairwise(frames):
        shown = earlier != MASK
        assert torch.equal(earlier[shown], later[shown])
    assert torch.equal(predictor.started[0], tokens)
    assert predictor.progress == [0, 0.25, 0.5, 0.75, 1]
    cumulative = [0, *(sum(step.count for step in plan[: i + 1]) for i in range(4))]
    assert predictor.num_rows == [16 - count for count in cumulative]  # no row twice


def test_nothing_hidden_asks_for_nothing():
    predictor, tokens = Toy(), partly_hidden(0, 0)
    assert torch.equal(run(tokens, mar_plan(16, 4), predictor=predictor), tokens)
    assert predictor.num_rows == []


def test_few_hidden_tokens_take_few_calls():
    """Two tokens in sixteen steps: fourteen steps reveal nothing and cost nothing."""
    predictor = Toy()
    run(partly_hidden(2, 2), mar_plan(16, 16), predictor=predictor)
    assert predictor.num_rows == [2, 1]


@pytest.mark.parametrize("order", BLIND)
def test_a_blind_order_asks_for_the_rows_of_its_step_alone(order):
    predictor = Toy()
    run(partly_hidden(16, 3), mar_plan(16, 5, order=order), predictor=predictor)
    assert predictor.num_rows == [step.count for step in mar_plan(16, 5)]


def test_a_step_tells_how_likely_each_token_was():
    """Log p of the untempered logits; 0 where a token was given, -inf where it is hidden."""
    tokens, told = partly_hidden(16, 10), []
    plan = hybrid_plan(16, 3, 4)
    predictors = {"ar": Constant([LOGITS]), "mar": Constant(LOGITS)}
    settings = SamplingConfig(temperature=0.7, remask=0.5)
    run(tokens, plan, None, settings, predictors, lambda *given: told.append(given))
    assert [index for index, _, _ in told] == list(range(7))
    law = torch.tensor(LOGITS).log_softmax(-1)
    for _, frame, confidence in told:
        hidden = frame == MASK
        assert (confidence[hidden] == -torch.inf).all()
        assert (confidence[tokens != MASK] == 0).all()
        drawn = ~hidden & (tokens == MASK)
        torch.testing.assert_close(confidence[drawn], law[frame[drawn]])


# Hybrids


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_hybrid_ends_in_the_pure_plans(sampling):
    """Token for token, and what is asked too."""
    tokens, order = partly_hidden(16, 16, 9, 1), "local"
    predictors = {"ar": Raster(), "mar": Toy()}
    none = run(tokens, hybrid_plan(16, 0, 5, order=order), None, sampling, predictors)
    assert torch.equal(none, run(tokens, mar_plan(16, 5, order=order), None, sampling))
    assert predictors["ar"].rows == []
    every = run(tokens, hybrid_plan(16, 16, 5), None, sampling, {"ar": Raster()})
    assert torch.equal(every, run(tokens, ar_plan(16), None, sampling))


def test_a_hybrid_draws_the_first_ones_in_turn_and_then_the_rest():
    tokens, frames = partly_hidden(16, 10, 3), []
    predictors = {"ar": Raster(), "mar": Toy()}
    run(
        tokens,
        hybrid_plan(16, 6, 3),
        predictor=predictors,
        on_step=lambda i, t, c: frames.append(t),
    )
    pure = []
    raster(tokens, on_step=lambda i, t, c: pure.append(t))
    for step in range(6):
        assert torch.equal(frames[step].flatten(1)[:, :6], pure[step].flatten(1)[:, :6])
    assert [row for rows in predictors["ar"].rows for row in rows] == list(range(6))
    assert torch.equal(predictors["mar"].started[0], frames[5])
    assert predictors["mar"].progress == [6 / 16, 11 / 16, 1]


# Hidden again


@pytest.mark.parametrize("remask_by", REMASK)
@pytest.mark.parametrize("remask", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("num_ar", [0, 5])
def test_hiding_again_follows_the_plan_and_ends_with_nothing_hidden(num_ar, remask, remask_by):
    tokens = partly_hidden(16, 10, 1, 0, 16)
    plan, frames = hybrid_plan(16, num_ar, 6, "linear"), [tokens]
    settings = SamplingConfig(remask=remask, remask_by=remask_by)
    found = run(tokens, plan, None, settings, None, lambda i, t, c: frames.append(t))
    without = []
    run(tokens, plan, on_step=lambda i, t, c: without.append(t))
    for step, (before, after) in enumerate(pairwise(frames)):
        assert torch.equal(
            (after == MASK).flatten(1).sum(1), (without[step] == MASK).flatten(1).sum(1)
        )
        again = ((before != MASK) & (after == MASK)).flatten(1)
        if step < num_ar:
            assert not again.any()
            continue
        decoded = (before != MASK).flatten(1).sum(1) - (frames[num_ar] != MASK).flatten(1).sum(1)
        left = (after == MASK).flatten(1).sum(1)
        allowed = [min(round(remask * n), m) for n, m in zip(decoded.tolist(), left.tolist())]
        assert again.sum(1).tolist() == allowed
        assert not again[:, :num_ar].any()  # the first part is given to the second
    assert (found != MASK).all()
    assert torch.equal(found[tokens != MASK], tokens[tokens != MASK])


def test_what_is_hidden_again_may_become_another_token():
    frames, flat = [], Constant([0.0] * CODES)
    settings = SamplingConfig(remask=1.0)
    found = run(empty(50, 4, 4), mar_plan(16, 4, "linear"), None, settings, flat,
                lambda i, t, c: frames.append(t))  # fmt: skip
    first = frames[0] != MASK
    changed = (frames[0][first] != found[first]).float().mean().item()
    assert 0.5 < changed < 1


# Laws

LOGITS = [0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 0.1]


def pvalue(found, probabilities):
    counts = torch.bincount(found.flatten(), minlength=CODES)
    return chisquare(counts.numpy(), (probabilities / probabilities.sum() * found.numel())).pvalue


@pytest.mark.parametrize("plan", [mar_plan(4, 1), mar_plan(4, 4, order="random")])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_tokens_follow_the_tempered_law(temperature, plan):
    sampling = SamplingConfig(temperature=temperature)
    found = run(empty(4000, 2, 2), plan, sampling=sampling, predictor=Constant(LOGITS))
    law = (torch.tensor(LOGITS).double() / temperature).exp().numpy()
    wrong = (torch.tensor(LOGITS).double() / (1.2 * temperature)).exp().numpy()
    assert pvalue(found, law) > 0.001
    assert pvalue(found, wrong) < 1e-6
    for position in range(4):
        assert pvalue(found.flatten(1)[:, position], law) > 0.001


def test_each_step_draws_anew():
    """What a step has drawn but not revealed is forgotten: the next draws agree by chance."""
    frames, flat = [], Constant([0.0] * CODES)
    run(empty(2000, 2, 2), mar_plan(4, 1), predictor=flat, on_step=lambda i, t, c: frames.append(t))
    run(empty(2000, 2, 2), mar_plan(4, 4, order="random"), predictor=flat,
        on_step=lambda i, t, c: frames.append(t))  # fmt: skip
    all_at_once, first, *_, last = frames
    later = first == MASK
    assert torch.equal(last[~later], all_at_once[~later])  # the first draws are the same
    agree = (last[later] == all_at_once[later]).sum().item()
    assert binomtest(agree, later.sum().item(), 1 / CODES).pvalue > 0.001


def test_top_k_never_draws_outside():
    sampling = SamplingConfig(top_k=3)
    found = run(empty(4000, 2, 2), mar_plan(4, 2), sampling=sampling, predictor=Constant(LOGITS))
    assert set(found.unique().tolist()) == {1, 3, 4}  # the three largest
    every = SamplingConfig(top_k=100)  # more than there are
    found = run(empty(4000, 2, 2), mar_plan(4, 1), sampling=every, predictor=Constant(LOGITS))
    assert pvalue(found, torch.tensor(LOGITS).double().exp().numpy()) > 0.001


class Peaked(Constant):
    """Position i is sure of code i % CODES to the degree peaks[i]."""

    def __call__(self, tokens, rows, progress):
        peak = torch.nn.functional.one_hot(rows % CODES, CODES)
        return peak * self.logits[rows][..., None]


def test_the_most_confident_come_first_without_noise():
    peaks = [3.0, 9.0, 1.0, 5.0, 2.0, 8.0, 4.0, 6.0]
    frames = []
    sampling = SamplingConfig(noise=0, top_k=1)
    plan = [Step(1, index / 7, "confidence") for index in range(8)]
    run(empty(2, 2, 4), plan, None, sampling, Peaked(peaks), lambda i, t, c: frames.append(t))
    shown = torch.stack([frame.flatten(1)[0] != MASK for frame in frames])  # (steps, N)
    when = shown.int().argmax(0)
    assert when.tolist() == [5, 0, 7, 3, 6, 1, 4, 2]
    assert torch.equal(frames[-1][0].flatten(), torch.arange(8) % CODES)


def first_revealed(order, noise, progress=0.0):
    """Where 6,000 images begin, whose four positions differ in confidence."""
    frames, sampling = [], SamplingConfig(noise=noise, top_k=1)
    plan = [Step(1, progress, order), Step(3, 1.0, order)]
    run(empty(6000, 2, 2), plan, None, sampling, Peaked(PEAKS), lambda i, t, c: frames.append(t))
    return (frames[0].flatten(1) != MASK).int().argmax(1)


PEAKS = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_noise_softens_the_confidence(progress):
    """The largest log p + a Gumbel has a probability like p^(1/a), a = noise (1 - progress)."""
    peaks = torch.tensor(PEAKS).double()
    log_probability = peaks - (peaks.exp() + CODES - 1).log()
    law = (log_probability / (0.8 * (1 - progress))).exp()
    counts = torch.bincount(first_revealed("confidence", 0.8, progress), minlength=4)
    assert chisquare(counts.numpy(), (law / law.sum() * 6000).numpy()).pvalue > 0.001


def test_random_order_is_uniform():
    counts = torch.bincount(first_revealed("random", 4.5), minlength=4)
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_equal_confidence_reveals_in_order():
    """So the result cannot hang on how a device sorts equal numbers."""
    frames, sampling = [], SamplingConfig(noise=0, top_k=1)
    plan = [Step(5, 0.0, "confidence"), Step(35, 1.0, "confidence")]
    run(empty(3, 5, 8), plan, None, sampling, Constant(LOGITS), lambda i, t, c: frames.append(t))
    assert torch.equal(frames[0].flatten(1) != MASK, (torch.arange(40) < 5).expand(3, -1))


@pytest.mark.parametrize(("schedule", "order"), list(product(SCHEDULES, ORDERS)))
def test_every_schedule_and_order_decodes(schedule, order):
    found = run(partly_hidden(16, 5), mar_plan(16, 7, schedule, order))
    assert (found != MASK).all()


# Raster order


def raster(tokens, seeds=None, sampling=SAMPLINGS[0], predictor=None, on_step=None):
    plan = ar_plan(tokens[0].numel())
    return run(tokens, plan, seeds, sampling, predictor or Raster(), on_step)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_token_is_drawn_after_those_before_it(sampling):
    """By the law that its predecessors leave, as a loop without any masks has it."""
    seeds = torch.arange(40, 45)
    found = raster(empty(5, 4, 4), seeds, sampling).flatten(1)
    plain = torch.full((5, 16), MASK)
    for row in range(16):
        logits = Raster()(plain, torch.full((5, 1), row), 0.0)[:, 0] / sampling.temperature
        kept = sampling.top_k or CODES
        logits = logits.masked_fill(logits < logits.topk(kept).values[:, -1:], -torch.inf)
        cumulative = logits.softmax(-1).cumsum(-1)
        noise = uniform(seeds, "token", row, torch.tensor(row))
        plain[:, row] = (noise[:, None] > cumulative).sum(1).clamp_max(CODES - 1)
    assert torch.equal(found, plain)


def test_given_tokens_are_forced_and_never_change():
    """With another mask in every image; where all have a token nothing is asked."""
    tokens = partly_hidden(16, 9, 1, 0, 15)
    tokens.flatten(1)[:, :3] = tokens.flatten(1)[:, 8] = 5
    before, predictor, frames = tokens.clone(), Raster(), []
    found = raster(tokens, predictor=predictor, on_step=lambda i, t, c: frames.append(t))
    given = before != MASK
    assert torch.equal(found[given], before[given])
    assert torch.equal(tokens, before)
    assert found.max() < CODES
    assert predictor.rows[0] == [0, 1, 2, 3]
    assert [row for rows in predictor.rows for row in rows] == list(range(16))  # none twice
    assert [7, 8] not in predictor.rows
    assert [8, 9] in predictor.rows
    assert len(frames) == 16
    assert torch.equal(frames[-1], found)
    for index, frame in enumerate(frames):
        shown = frame.flatten(1) != MASK
        assert shown[:, : index + 1].all()
        assert torch.equal(shown[:, index + 1 :], given.flatten(1)[:, index + 1 :])
    assert predictor.progress == [rows[-1] / 15 for rows in predictor.rows]


def test_the_batch_does_not_matter_in_raster_order():
    tokens, seeds = partly_hidden(*range(0, 16, 3)), torch.arange(100, 106)
    together = raster(tokens, seeds)
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(raster(tokens[shuffled], seeds[shuffled]), together[shuffled])
    for image in range(6):
        alone = raster(tokens[image, None], seeds[image, None])
        assert torch.equal(alone[0], together[image])


@pytest.mark.parametrize("changes", [{}, {"codebook_size": 12, "low_bits": 2}], ids=["one", "two"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_cache_draws_what_all_rows_at_once_draw(scale, changes):
    """Greedily, with given tokens, from networks of one head and of two."""
    network = tiny.network(**changes)
    mask_id, labels = network.mask_id, torch.tensor([0, 2, 1])
    tokens = torch.full((3, 16), mask_id)
    tokens[0, 4:7], tokens[2, 15] = 3, 8
    greedy, predictor = (
        SamplingConfig(top_k=1),
        CausalPredictor(network, labels, tiny.guided("constant", scale)),
    )
    found = decode(
        predictor, tokens.view(3, 4, 4), ar_plan(16), torch.arange(3), mask_id=mask_id,
        sampling=greedy,
    )  # fmt: skip
    plain = tokens.clone()
    with torch.no_grad():
        for row in range(16):
            states = [
                network.hidden_at_once(plain.view(3, 4, 4), condition, causal=True)[:, row]
                for condition in (labels, torch.full_like(labels, network.null_label))
            ]
            parts = []
            for _ in network.output.sizes:
                logits, null = (network.output.part_logits(state, parts) for state in states)
                parts.append((null + scale * (logits - null)).argmax(-1))
            drawn = network.output.join(parts)
            plain[:, row] = torch.where(tokens[:, row] == mask_id, drawn, tokens[:, row])
    assert torch.equal(found.flatten(1), plain)
    assert len(set(plain.flatten().tolist())) > 3


def test_parts_have_noise_of_their_own():
    """The same uniform for both would leave most pairs out."""
    network = tiny.network(codebook_size=12, low_bits=2)
    with torch.no_grad():
        network.output.forget()  # all codes alike
    predictor = GuidedPredictor(
        network, torch.zeros(400, dtype=torch.int64), tiny.guided("constant", 1.0)
    )
    tokens, sampling = torch.full((400, 4, 4), 12), SamplingConfig()
    found = decode(
        predictor, tokens, mar_plan(16, 2), torch.arange(400), mask_id=12, sampling=sampling
    )
    assert chisquare(torch.bincount(found.flatten(), minlength=12).numpy()).pvalue > 0.001
