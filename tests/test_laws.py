"""The exact law of whole decodings: 4 tokens of 6 codes, all 1,296 grids enumerated.

The logits are those of a tiny network under guidance, for all 7^4 partly hidden grids at once; so
draws are look-ups, and 200,000 of them cheap. The law is computed in plain float64 arithmetic from
what the papers say, not from our loop.
"""

import math
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, permutations, product

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import chisquare
from test_orders import local_by_hand

from MaskGIL.decoding import decode
from MaskGIL.orders import halton_order
from MaskGIL.plans import Step, ar_plan
from MaskGIL.predictor import PREDICTORS
from MaskGIL.sampling import SamplingConfig

CODES, PLACES, MASK, SCALE = 6, 4, 6, 2.0
EMPTY = (MASK,) * PLACES


# The network


@pytest.fixture(scope="module")
def network():
    return tiny.network(codebook_size=CODES, grid=(2, 2))


@pytest.fixture(scope="module")
def logits(network):
    """{"mar", "ar"}: guided logits of every partly hidden grid, (7, 7, 7, 7, 4 rows, 6 codes)."""
    grids = torch.tensor(list(product(range(MASK + 1), repeat=PLACES))).view(-1, 2, 2)
    found = {}
    with torch.no_grad():
        for kind in ("mar", "ar"):
            conditional, null = (
                network(grids, torch.full((len(grids),), label), kind == "ar")
                for label in (1, network.null_label)
            )
            guided = null + SCALE * (conditional - null)
            found[kind] = guided.view(*[MASK + 1] * PLACES, PLACES, CODES)
    return found


class Table:
    """Answers as the network would, from its table."""

    def __init__(self, logits):
        self.logits = logits.float()

    def start(self, tokens):
        pass

    def __call__(self, tokens, rows, progress):
        found = self.logits[tuple(tokens.flatten(1).T)]
        return found.gather(1, rows[..., None].expand(-1, -1, CODES))


class CausalTable(Table):
    """Of the rows asked for only the last is answered."""

    def __call__(self, tokens, rows, progress):
        return super().__call__(tokens, rows[:, -1:], progress)


# The law


class Law:
    """Probabilities of what a plan makes of an empty grid."""

    def __init__(self, logits, plan, settings):
        self.plan, self.settings = plan, settings
        logits = {kind: table.numpy() for kind, table in logits.items()}
        self.draws = {kind: softmax(table / settings.temperature) for kind, table in logits.items()}
        self.likely = {kind: softmax(table) for kind, table in logits.items()}

    def grids(self):
        """Every final grid's probability, (6, 6, 6, 6)."""
        total = np.zeros((CODES,) * PLACES)
        starts = range(PLACES) if self.plan[-1].order == "halton" else [0]
        for start in starts:  # one for all steps of an image
            states = {(EMPTY, (0.0,) * PLACES): 1.0}
            for index in range(len(self.plan)):
                states = self.step(states, index, start)
            for (tokens, _), probability in states.items():
                total[tokens] += probability / len(starts)
        return total

    def step(self, states, index, start):
        """{(tokens, how likely each was): probability} behind a step."""
        step, behind = self.plan[index], defaultdict(float)
        left = PLACES - sum(each.count for each in self.plan[: index + 1])
        remember = self.settings.remask and self.settings.remask_by == "confidence" and left
        for (tokens, likely), probability in states.items():
            decoded = [row for row in range(PLACES) if tokens[row] != MASK]
            again = 0
            if step.kind == "mar":
                again = min(round(self.settings.remask * len(decoded)), left)
            for share, revealed in self.revealed(tokens, step, step.count + again, start):
                for chance, forgotten in self.forgotten(decoded, likely, again):
                    after, known = list(tokens), list(likely)
                    for row, code in revealed:
                        after[row] = code
                        if remember:
                            known[row] = float(self.likely[step.kind][(*tokens, row, code)])
                    for row in forgotten:
                        after[row], known[row] = MASK, 0.0
                    behind[tuple(after), tuple(known)] += probability * share * chance
        return behind

    def revealed(self, tokens, step, count, start):
        """Yield (probability, ((row, code), ...)) of what a step reveals."""
        hidden = [row for row in range(PLACES) if tokens[row] == MASK]
        law = self.draws[step.kind][tokens].tolist()  # [row][code]
        if step.order != "confidence":
            for share, rows in ORDERS[step.order](tokens, hidden, count, start):
                for codes in product(range(CODES), repeat=count):
                    draw = math.prod(law[row][code] for row, code in zip(rows, codes))
                    yield share * draw, tuple(zip(rows, codes))
            return
        spread, likely = self.settings.noise * (1 - step.progress), self.likely[step.kind][tokens]
        for codes in product(range(CODES), repeat=len(hidden)):
            draw = math.prod(law[row][code] for row, code in zip(hidden, codes))
            for share, places in plackett_luce(np.log(likely[hidden, codes]), spread, count):
                yield draw * share, tuple((hidden[place], codes[place]) for place in places)

    def forgotten(self, decoded, likely, count):
        """Yield (probability, rows) of what is hidden again."""
        by_confidence = self.settings.remask_by == "confidence"
        scores = np.array([-likely[row] if by_confidence else 0.0 for row in decoded])
        for share, places in plackett_luce(scores, 1.0, count):
            yield share, [decoded[place] for place in places]


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def plackett_luce(scores, spread, count):
    """[(probability, set)] of those drawn without replacement by weights exp(score / spread)."""
    if count == len(scores):
        return [(1.0, tuple(range(count)))]
    if not spread:
        return [(1.0, tuple(np.argsort(-scores, kind="stable")[:count]))]
    weights = np.exp((scores - scores.max()) / spread)
    found = []
    for chosen in combinations(range(len(scores)), count):
        share = 0.0
        for order in permutations(chosen):
            left, product_ = weights.sum(), 1.0
            for place in order:
                product_ *= weights[place] / left
                left -= weights[place]
            share += product_
        found.append((share, chosen))
    return found


def in_raster_order(tokens, hidden, count, start):
    return [(1.0, hidden[:count])]


def at_random(tokens, hidden, count, start):
    sets = list(combinations(hidden, count))
    return [(1 / len(sets), rows) for rows in sets]


def by_halton(tokens, hidden, count, start):
    order = halton_order(2, 2)
    return [(1.0, [row for row in (*order[start:], *order[:start]) if row in hidden][:count])]


@lru_cache(None)
def near_what_is_known(tokens, hidden, count):
    """Over every ranking of the positions by chance."""
    mask, shares = torch.tensor([token == MASK for token in tokens]).view(2, 2), defaultdict(float)
    for luck in permutations(range(PLACES)):
        rows = local_by_hand(mask, count, torch.tensor(luck))
        shares[tuple(sorted(rows))] += 1 / math.factorial(PLACES)
    return [(share, rows) for rows, share in shares.items()]


ORDERS = {
    "raster": in_raster_order,
    "random": at_random,
    "halton": by_halton,
    "local": lambda tokens, hidden, count, start: near_what_is_known(tokens, tuple(hidden), count),
}


# Draws of it


def steps(order, *counts):
    return [Step(count, index / (len(counts) - 1), order) for index, count in enumerate(counts)]


SHARP = SamplingConfig(noise=0.8, temperature=0.8)
FORGETFUL = SamplingConfig(noise=0.8, remask=0.6)
CASES = {
    "confidence": (steps("confidence", 1, 2, 1), SHARP),
    "confidence, two steps": (steps("confidence", 2, 2), SHARP),
    "random": (steps("random", 1, 2, 1), SHARP),
    "halton": (steps("halton", 1, 2, 1), SHARP),
    "local": (steps("local", 1, 2, 1), SHARP),
    "ar": (ar_plan(4), SHARP),
    "hybrid": ([*ar_plan(4)[:1], *steps("confidence", 1, 2)], SHARP),
    "hybrid of two": ([*ar_plan(4)[:2], *steps("random", 1, 1)], SHARP),
    "remask": (steps("random", 1, 1, 1, 1), FORGETFUL),
    "remask by confidence": (
        steps("random", 2, 1, 1), replace(FORGETFUL, remask_by="confidence")
    ),
    "remask, most confident first": (steps("confidence", 2, 1, 1), FORGETFUL),
}  # fmt: skip


LAWS = {}  # the tests of a case share them


def law(logits, name, settings):
    if (name, settings) not in LAWS:
        LAWS[name, settings] = Law(logits, CASES[name][0], settings).grids()
    return LAWS[name, settings]


def drawn(logits, plan, settings, count):
    tables = {"mar": Table(logits["mar"]), "ar": CausalTable(logits["ar"])}
    empty = torch.full((count, 2, 2), MASK)
    found = decode(tables, empty, plan, torch.arange(count), mask_id=MASK, sampling=settings)
    places = (found.flatten(1) * torch.tensor([216, 36, 6, 1])).sum(1)
    return torch.bincount(places, minlength=CODES**PLACES).numpy()


def pvalue(counts, law):
    """Of the chi-square test; cells of which fewer than five are expected become one."""
    expected = law.flatten() * counts.sum()
    few = expected < 5
    if few.any():
        counts = np.append(counts[~few], counts[few].sum())
        expected = np.append(expected[~few], expected[few].sum())
    return chisquare(counts, expected).pvalue


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_whole_decodings_follow_their_law(logits, name, count):
    plan, settings = CASES[name]
    warmer = replace(settings, temperature=1.1 * settings.temperature)
    right, wrong = (law(logits, name, changed) for changed in (settings, warmer))
    assert right.sum() == pytest.approx(1, abs=1e-12)
    counts = drawn(logits, plan, settings, count)
    assert pvalue(counts, right) > 0.001
    assert pvalue(counts, wrong) < 1e-6


def test_the_table_is_the_network(network, logits):
    """Token for token: what holds of the one holds of the other."""
    labels, settings = torch.ones(300, dtype=torch.int64), tiny.guided("constant", SCALE)
    networks = {kind: make(network, labels, settings) for kind, make in PREDICTORS.items()}
    tables = {"mar": Table(logits["mar"]), "ar": CausalTable(logits["ar"])}
    empty, seeds = torch.full((300, 2, 2), MASK), torch.arange(300)
    for plan, sampling in CASES.values():
        found, expected = (
            decode(predictors, empty, plan, seeds, mask_id=MASK, sampling=sampling)
            for predictors in (networks, tables)
        )
        assert (found == expected).all(2).all(1).float().mean() > 0.99  # rounding may turn one


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("confidence", {"order": "random"}),
        ("random", {"order": "local"}),
        ("halton", {"order": "random"}),
        ("local", {"order": "halton"}),
        ("confidence", {"noise": 0.6}),
        ("remask", {"remask": 0.0}),
        ("remask by confidence", {"remask_by": "random"}),
    ],
)
def test_laws_tell_plans_apart(logits, name, changes):
    """Else they would prove nothing."""
    plan, settings = CASES[name]
    if order := changes.get("order"):
        plan, changes = [replace(step, order=order) for step in plan], {}
    other = Law(logits, plan, replace(settings, **changes)).grids()
    assert pvalue(drawn(logits, *CASES[name], 100_000), other) < 1e-6
