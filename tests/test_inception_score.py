"""Scores against those of torch-fidelity and of ADM's evaluator, and against what they must be."""

import re

import numpy as np
import pytest
import torch
from fixtures.metrics.stored import GOLDEN, logits
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.inception import InceptionScore

from Metrics.inception_score import SEED, adm_inception_score, follows_classes, inception_score
from Network.config import UserError

SETS = {
    "3000": {"count": 3000},
    "2005": {"count": 2005},
    # So sure that a float32 probability underflows: ADM's float32 code gives NaN
    "sharp_scale30_seed32_n300": {"count": 300, "scale": 30, "seed": 32},
}


@pytest.mark.parametrize(
    ("name", "score", "key"),
    [
        ("3000", lambda x: inception_score(x, 1), "torch_fidelity_splits1_noshuffle"),
        (
            "3000",
            lambda x: inception_score(x, 1, SEED),
            "torch_fidelity_splits1_shuffle_seed2020",
        ),
        ("3000", inception_score, "torch_fidelity_splits10_noshuffle"),
        (
            "3000",
            lambda x: inception_score(x, seed=SEED),
            "torch_fidelity_splits10_shuffle_seed2020",
        ),
        ("3000", adm_inception_score, "adm_split_size5000_float64"),
        ("3000", lambda x: adm_inception_score(x, 300), "adm_split_size300_float64"),
        ("2005", lambda x: inception_score(x, 1), "torch_fidelity_splits1_noshuffle"),
        (
            "2005",
            lambda x: inception_score(x, 1, SEED),
            "torch_fidelity_splits1_shuffle_seed2020",
        ),
        ("2005", inception_score, "torch_fidelity_splits10_noshuffle"),
        (
            "2005",
            lambda x: inception_score(x, seed=SEED),
            "torch_fidelity_splits10_shuffle_seed2020",
        ),
        ("2005", adm_inception_score, "adm_split_size5000_float64"),
        # The last of seven blocks has 205 images and counts as much as the others
        ("2005", lambda x: adm_inception_score(x, 300), "adm_split_size300_float64"),
        ("sharp_scale30_seed32_n300", inception_score, "torch_fidelity_splits10_noshuffle"),
        ("sharp_scale30_seed32_n300", lambda x: adm_inception_score(x, 30), "adm_float64_split30"),
    ],
)
def test_scores_are_those_of_the_references(name, score, key):
    mean, deviation = score(logits(name, **SETS[name]))
    expected_mean, expected_deviation = GOLDEN["inception_score"][name][key]
    assert mean == pytest.approx(expected_mean, rel=1e-12)
    assert deviation == pytest.approx(expected_deviation, abs=1e-11)


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_fresh_logits_score_as_torch_fidelity_has_it(splits):
    random = torch.Generator().manual_seed(splits)
    rows = 3 * torch.randn(101, 20, generator=random)
    theirs = isc_features_to_metric(rows, splits, shuffle=True, rng_seed=7)
    assert inception_score(rows, splits, seed=7) == pytest.approx(tuple(theirs.values()))


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", "ignore:std()")
@pytest.mark.parametrize("splits", [1, 3])
def test_fresh_logits_score_as_torchmetrics_has_it(splits):
    rows = 3 * torch.randn(90, 20, generator=torch.Generator().manual_seed(8))
    theirs = InceptionScore(torch.nn.Identity(), splits=splits)
    theirs.update(rows.double())
    with torch.random.fork_rng():
        torch.manual_seed(9)
        order = torch.randperm(90)
        torch.manual_seed(9)
        mean, deviation = theirs.compute()
    found = inception_score(rows[order], splits)
    assert found[0] == pytest.approx(mean.item(), rel=1e-12)
    if splits > 1:  # theirs is divided by one less
        expected = deviation.item() * ((splits - 1) / splits) ** 0.5
        assert found[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("most", [1e3, 1e5, torch.finfo(torch.float32).max])
def test_scores_of_certain_and_of_clueless_networks(most):
    # Certain of a different class each time: the number of classes, 4. Clueless: 1.
    certain = torch.eye(4).repeat(10, 1) * most  # other probabilities underflow in float64 too
    for score in (lambda x: inception_score(x, splits=2), lambda x: adm_inception_score(x, 20)):
        assert score(certain) == (pytest.approx(4), pytest.approx(0))
        assert score(torch.zeros(40, 4)) == (pytest.approx(1), pytest.approx(0))
        one_class = torch.tensor([[most, 0.0, 0.0, -most]]).repeat(20, 1)
        assert score(one_class) == (pytest.approx(1), pytest.approx(0))


def test_an_order_by_class_spoils_contiguous_blocks_and_is_noticed():
    labels = np.repeat(np.arange(10), 20)
    mixed = np.random.default_rng(0).permutation(labels)
    certain = torch.eye(10) * 50
    assert adm_inception_score(certain[labels], 20)[0] == pytest.approx(1)
    assert inception_score(certain[labels], 10, seed=0)[0] > 5
    assert follows_classes(labels)
    assert follows_classes(np.sort(mixed)[::-1])
    assert follows_classes(np.concatenate([labels, labels[:30]]))
    for fine in (mixed, np.arange(200) % 10, np.zeros(50, int), np.arange(5), labels[:0]):
        assert not follows_classes(fine)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="^An inception score: at least 10 images are needed"):
        inception_score(torch.zeros(9, 3))
    sentence = "The logits hold NaN or infinity: look at the weights and images behind them."
    for score in (inception_score, adm_inception_score):
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            score(torch.full((12, 3), torch.inf))
