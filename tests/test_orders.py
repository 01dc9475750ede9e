"""Orders, equal to plain loops over one image."""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from MaskGIL.noise import uniform
from MaskGIL.orders import (
    BLIND,
    halton_order,
    hidden_again,
    hidden_first,
    most_confident,
)

STORED = json.loads((Path(__file__).parent / "fixtures/orders.json").read_text())
GRIDS = [(1, 1), (1, 5), (4, 4), (6, 3), (8, 8)]


def some_hidden(batch, height, width, seed=0):
    """Masks of which the first hides all, the second nothing, the third one position."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(batch, height * width, generator=generator) < 0.6
    hidden[0], hidden[1], hidden[2] = True, False, False
    hidden[2, -1] = True
    return hidden.view(batch, height, width)


# Halton


@pytest.mark.parametrize("side", [16, 32])
def test_halton_equals_the_order_of_its_authors(side):
    """Of valeoai/Halton-MaskGIT, for the grids of 256 and 512 pixels."""
    assert list(halton_order(side, side)) == STORED[f"halton_{side}"]


@pytest.mark.parametrize("grid", [*GRIDS, (5, 7), (24, 24), (64, 64), (3, 40)])
def test_halton_covers_any_grid(grid):
    """Theirs leaves six cells of 64x64 out: 10,000 points do not reach them."""
    assert sorted(halton_order(*grid)) == list(range(math.prod(grid)))
    assert halton_order(*grid)[0] == grid[0] // 2 * grid[1] + grid[1] // 3  # (1/2, 1/3)


def test_halton_begins_elsewhere_in_every_image():
    order = halton_order(4, 4)
    found = BLIND["halton"](torch.ones(4000, 4, 4, dtype=torch.bool), 16, torch.arange(4000), 3)
    starts = torch.tensor(order).argsort()[found[:, 0]]
    assert chisquare(torch.bincount(starts, minlength=16).numpy()).pvalue > 0.001
    for rows, start in zip(found[:50].tolist(), starts.tolist()):
        assert rows == [*order[start:], *order[:start]]


def test_halton_keeps_its_place_from_step_to_step():
    """What is hidden comes in the one order of the image, whatever is known and in any step."""
    hidden, seeds = some_hidden(20, 4, 4), torch.arange(20)
    whole = BLIND["halton"](torch.ones(20, 4, 4, dtype=torch.bool), 16, seeds, 0)
    found = BLIND["halton"](hidden, 16, seeds, 7)
    for image in range(20):
        mask = hidden[image].flatten()
        expected = [row for row in whole[image].tolist() if mask[row]]
        assert found[image, : len(expected)].tolist() == expected


# Locality


def local_by_hand(hidden, count, ties):
    """The published procedure for one image: a list of neighbours, then farthest points."""
    height, width = hidden.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    known = [place for place in places if not hidden[place]]
    left = [place for place in places if hidden[place]]
    luck = dict(zip(places, ties.tolist()))

    def touches(a, b):
        return abs(a[0] - b[0]) <= 1 and abs(a[1] - b[1]) <= 1

    def proximity(place):
        return sum(1 / math.dist(place, other) for other in known if touches(place, other))

    chosen = []
    near = [place for place in left if proximity(place) >= 1]
    for place in sorted(near, key=lambda place: (round(proximity(place), 6), luck[place]))[::-1]:
        if len(chosen) < count and not any(touches(place, other) for other in chosen):
            chosen.append(place)
    while len(chosen) < min(count, len(left)):
        others = [place for place in left if place not in chosen]

        def apart(place):
            return min((math.dist(place, other) ** 2 for other in chosen), default=0.0)

        chosen.append(max(others, key=lambda place: (round(apart(place), 6), luck[place])))
    return [y * width + x for y, x in chosen]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 3, 16])
def test_local_equals_the_published_procedure(grid, count):
    count = min(count, math.prod(grid))
    hidden, seeds = some_hidden(30, *grid), torch.arange(50, 80)
    ties = uniform(seeds[:, None], "decoding order", 5, torch.arange(math.prod(grid)))
    found = BLIND["local"](hidden, count, seeds, 5).tolist()
    for image in range(30):
        expected = local_by_hand(hidden[image], count, ties[image])
        assert found[image][: len(expected)] == expected


def test_local_keeps_near_what_is_known_and_apart():
    """From a known block the first ones lie on its border, two steps from each other."""
    hidden = torch.ones(200, 8, 8, dtype=torch.bool)
    hidden[:, 2:6, 2:6] = False
    found = BLIND["local"](hidden, 4, torch.arange(200), 0)
    rows, columns = found // 8, found % 8
    edge = ((rows >= 1) & (rows <= 6) & (columns >= 1) & (columns <= 6)).all()
    distance = (rows[..., None] - rows[:, None]) ** 2 + (columns[..., None] - columns[:, None]) ** 2
    assert edge
    assert (distance + 100 * torch.eye(4)).min() > 2


# All of them


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("order", BLIND)
def test_hidden_positions_come_first_and_none_twice(order, grid):
    hidden, num_tokens = some_hidden(12, *grid), math.prod(grid)
    for count in {1, num_tokens // 2, num_tokens} - {0}:
        found = BLIND[order](hidden, count, torch.arange(12), 2)
        assert found.shape == (12, count)
        assert all(len(set(rows)) == count for rows in found.tolist())
        seen = hidden.flatten(1).gather(1, found)
        assert torch.equal(seen.sum(1), hidden.flatten(1).sum(1).clamp_max(count))
        assert (seen[:, :-1] >= seen[:, 1:]).all()


@pytest.mark.parametrize("order", BLIND)
def test_the_batch_does_not_matter(order):
    hidden, seeds = some_hidden(9, 4, 5), torch.arange(9)
    together = BLIND[order](hidden, 7, seeds, 1)
    for image in range(9):
        alone = BLIND[order](hidden[image, None], 7, seeds[image, None], 1)
        assert torch.equal(alone[0], together[image])


def test_random_is_uniform_and_new_in_each_step():
    hidden, seeds = torch.ones(6000, 2, 3, dtype=torch.bool), torch.arange(6000)
    first, second = (BLIND["random"](hidden, 2, seeds, step) for step in (0, 1))
    pairs = torch.bincount(first[:, 0] * 6 + first[:, 1], minlength=36).view(6, 6)
    assert chisquare(pairs[~torch.eye(6, dtype=torch.bool)].numpy()).pvalue > 0.001
    steps = torch.bincount(first[:, 0] * 6 + second[:, 0], minlength=36)
    assert chisquare(steps.numpy()).pvalue > 0.001


def test_hidden_first_is_in_raster_order():
    hidden = torch.tensor([[[True, False, True], [False, False, True]]])
    assert hidden_first(hidden, 6).tolist() == [[0, 2, 5, 1, 3, 4]]


# By what was drawn


def law_of_pairs(weights):
    """Of the first two drawn without replacement: (i, j) -> probability."""
    total = weights.sum()
    law = weights[:, None] / total * weights / (total - weights[:, None])
    return law.fill_diagonal_(0)


def test_the_most_confident_follow_plackett_luce():
    """Weights p^(1 / noise): the largest of log p + noise Gumbel."""
    count, log_probability = 20_000, torch.tensor([-0.1, -1.0, -2.0, -0.5, -9.0])
    hidden = torch.tensor([True, True, True, True, False]).expand(count, 1, 5)
    rows = torch.arange(5).expand(count, -1)
    given = (rows, log_probability.expand(count, -1))
    found = most_confident(hidden, 2, torch.arange(count), 4, *given, 0.7)
    law = law_of_pairs((log_probability[:4].double() / 0.7).exp())
    pairs = torch.bincount(found[:, 0] * 5 + found[:, 1], minlength=25).view(5, 5)
    assert pairs[4].sum() == pairs[:, 4].sum() == 0  # it is not hidden
    off = ~torch.eye(4, dtype=torch.bool)
    assert chisquare(pairs[:4, :4][off].numpy(), (count * law[off]).numpy()).pvalue > 0.001
    without = most_confident(hidden, 5, torch.arange(count), 4, *given, 0.0)
    assert torch.equal(without, torch.tensor([0, 3, 1, 2, 4]).expand(count, -1))


@pytest.mark.parametrize("by", ["random", "confidence"])
def test_those_hidden_again_follow_their_weights(by):
    count, log_probability = 20_000, torch.tensor([-0.1, -1.0, -2.0, -torch.inf, -0.01])
    decoded = torch.tensor([True, True, True, False, True]).expand(count, 1, 5)
    known = log_probability.expand(count, -1)
    found = hidden_again(decoded, 2, torch.arange(count), 4, known, by)
    kept = [0, 1, 2, 4]
    weights = (-log_probability[kept].exp().double()).exp() if by == "confidence" else torch.ones(4)
    pairs = torch.bincount(found[:, 0] * 5 + found[:, 1], minlength=25).view(5, 5)
    assert pairs[3].sum() == pairs[:, 3].sum() == 0
    off = ~torch.eye(4, dtype=torch.bool)
    law = law_of_pairs(weights.double())[off]
    law = law / law.sum()  # exactly 1
    assert chisquare(pairs[kept][:, kept][off].numpy(), (count * law).numpy()).pvalue > 0.001
    if by == "confidence":
        assert chisquare(pairs[kept][:, kept][off].numpy()).pvalue < 1e-6  # not all alike
