"""Counts against the packages', and against toy sets counted by hand."""

import re

import numpy as np
import pytest
import torch
from fixtures.metrics.stored import GOLDEN, features, gaussian
from prdc import compute_prdc
from torch_fidelity.metric_prc import prc_features_to_metric

from Metrics import neighbourhoods as module
from Metrics.neighbourhoods import density_coverage, neighbourhoods, precision_recall
from Network.config import UserError


def test_precision_recall_matches_the_references():
    golden = GOLDEN["pairs"]["a64_b64"]
    generated, real = features("a64"), features("b64")
    for k in (3, 5):
        found = precision_recall(real, generated, k)
        assert found == pytest.approx(golden[f"precision_recall_prdc_k{k}"], abs=1e-12)
        found = density_coverage(real, generated, k)
        assert found == pytest.approx(golden[f"density_coverage_prdc_k{k}"], abs=1e-12)
    found = precision_recall(real, generated)
    assert found == pytest.approx(golden["precision_recall_torch_fidelity_k3"], abs=1e-12)
    adm = GOLDEN["adm_precision_recall_k3_float32"]
    assert found == pytest.approx(adm["a64_b64"], abs=1e-12)
    found = precision_recall(features("b2048")[:900], features("a2048")[:600])
    assert found == pytest.approx(adm["a2048_b2048_first600_900"], abs=1e-12)


@pytest.mark.slow
def test_precision_recall_matches_the_references_at_full_width():
    golden = GOLDEN["pairs"]["a2048_b2048"]
    (found,) = neighbourhoods(features("b2048"), features("a2048"))
    assert found[:2] == pytest.approx(golden["precision_recall_prdc_k3"], abs=1e-12)
    assert found[:2] == pytest.approx(golden["precision_recall_torch_fidelity_k3"], abs=1e-12)
    assert found[2:] == pytest.approx(golden["density_coverage_prdc_k5"], abs=1e-12)
    (found,) = neighbourhoods(features("b2048"), features("a2048"), k=5, density_k=3)
    assert found[:2] == pytest.approx(golden["precision_recall_prdc_k5"], abs=1e-12)
    assert found[2:] == pytest.approx(golden["density_coverage_prdc_k3"], abs=1e-12)


@pytest.mark.parametrize("rows", [3, 64, 1000])
def test_counts_are_those_of_the_packages_for_any_block(monkeypatch, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    real, generated = gaussian(150, 5, seed=11), gaussian(130, 5, seed=12, mean=1.0)
    (found,) = neighbourhoods(real, generated, k=4, density_k=4)
    prdc = compute_prdc(real.numpy(), generated.numpy(), nearest_k=4)
    assert found._asdict() == {**prdc, "density": pytest.approx(prdc["density"], rel=1e-14)}
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=4, verbose=False)
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-7)  # theirs are float32
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-7)
    assert all(0 < share < 1 for share in (found.precision, found.recall, found.coverage))


def test_without_each_group_is_what_the_rest_gives_alone(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 32)
    real, generated = gaussian(90, 4, seed=21), gaussian(80, 4, seed=22, mean=0.7)
    groups = torch.arange(80) % 5
    groups[:3] = 4  # of unequal sizes, and in no order
    before = real.clone(), generated.clone()
    whole, *without = neighbourhoods(real, generated, groups)
    assert [whole] == neighbourhoods(real, generated)
    assert len(without) == 5
    for group, found in enumerate(without):
        assert [found] == neighbourhoods(real, generated[groups != group])
    assert len({found.recall for found in without}) > 1  # or nothing was left out
    assert torch.equal(real, before[0])
    assert torch.equal(generated, before[1])


def test_a_group_may_have_fewer_images_than_k():
    real, generated = gaussian(30, 3, seed=23), gaussian(10, 3, seed=24)
    groups = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    _, *without = neighbourhoods(real, generated, groups, density_k=3)
    for group, found in enumerate(without):
        assert [found] == neighbourhoods(real, generated[groups != group], density_k=3)


@pytest.mark.parametrize("origin", [0.0, 0.1, 1e7])
def test_equal_distances_count(origin):
    # Real points 0..4: at k=2 the inner ones reach 1, the ends 2. Generated -2 and 6 lie exactly at
    # the reach of an end, 7 and 20 beyond. The generated ones reach 8 and more: all real recalled.
    real = torch.arange(5.0, dtype=torch.float64)[:, None]
    generated = torch.tensor([[-2.0], [6.0], [7.0], [20.0]], dtype=torch.float64)
    assert precision_recall(real + origin, generated + origin, k=2) == (0.5, 1.0)
    assert precision_recall(generated + origin, real + origin, k=2) == (1.0, 0.5)
    strict = compute_prdc(real.numpy(), generated.numpy(), nearest_k=2)
    assert strict["precision"] == 0  # prdc leaves equal distances out


def test_copies_of_one_image_are_found_by_copies_only():
    # Reach 0 around a fourfold image: a copy lies in it, and a neighbour does not.
    real = gaussian(1, 7, seed=13).repeat(4, 1)
    generated = torch.cat([real[:1], real[:1] + 1e-3, gaussian(2, 7, seed=14)])
    assert precision_recall(real, generated, k=3)[0] == 0.25


def test_precision_recall_of_equal_and_of_distant_sets():
    rows = gaussian(50, 4, seed=15)
    assert precision_recall(rows, rows.clone()) == (1.0, 1.0)
    assert precision_recall(rows, rows + 1e4) == (0.0, 0.0)
    assert precision_recall(rows, rows[:1] + 1e-3 * gaussian(20, 4, seed=16)) == (1.0, 0.02)


def test_density_counts_how_often_and_coverage_whether():
    # Real points 0, 1, 2, 10: at k=1 they reach 1, 1, 1, 8. The generated 1.5 lies in the
    # neighbourhoods of 1 and 2, and 2.5 in those of 2 and 10: a density of 4 / 2. Of 0 none does.
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    generated = torch.tensor([[1.5], [2.5]])
    assert density_coverage(real, generated, k=1) == (2.0, 0.75)


# A user's mistakes


def say(sentence):
    return pytest.raises(UserError, match=f"^{re.escape(sentence)}$")


def test_mistakes_are_told():
    with say("Neighbourhoods at k=3: at least 4 images are needed, got 3; raise num_images."):
        precision_recall(torch.zeros(10, 2), torch.zeros(3, 2))
    with say("Neighbourhoods at k=5: at least 6 images are needed, got 5; raise num_images."):
        neighbourhoods(torch.zeros(5, 2), torch.zeros(9, 2))
    with say(
        "The real features and the generated features have widths 2 and 3: take both from the "
        "same layer of the same network."
    ):
        precision_recall(torch.zeros(9, 2), torch.zeros(9, 3))
    with say(
        "The generated features hold NaN or infinity: look at the weights and images behind them."
    ):
        density_coverage(torch.zeros(12, 2), torch.full((12, 2), np.nan))
