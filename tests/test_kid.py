"""Distances against torch-fidelity's, torchmetrics', and sums over pairs of images."""

import numpy as np
import pytest
import torch
from fixtures.metrics.stored import GOLDEN, features, gaussian
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from Metrics import kid
from Metrics.kid import kernel_distance, squared_mmd
from Network.config import UserError


def test_all_pairs_are_at_the_stored_distance():
    a, b = features("a64"), features("b64")
    whole, _ = squared_mmd(b[: len(a)], a, torch.zeros(len(a), dtype=torch.int64))
    expected = GOLDEN["pairs"]["a64_b64"]["mmd2_unbiased_full_first_n"]
    assert whole == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 2048])
def test_draws_are_at_the_stored_distances(width):
    golden = GOLDEN["pairs"][f"a{width}_b{width}"]
    a, b = features(f"a{width}"), features(f"b{width}")
    found = kernel_distance(b, a, subsets=golden["kid_subsets"])
    assert found == pytest.approx(golden["kid_torch_fidelity_float64"], rel=1e-9)


@pytest.mark.parametrize(("rows", "subsets"), [(7, 3), (7, 20), (1000, 20)])
def test_fresh_features_are_at_the_distances_of_the_packages(monkeypatch, rows, subsets):
    """For 3 draws of 30 images draw by draw, for 20 from all pairs of 80 and 70."""
    monkeypatch.setattr(kid, "ROWS", rows)
    generated, real = gaussian(80, 6, seed=1), gaussian(70, 6, seed=2, mean=0.5)
    draw = {"kid_subsets": subsets, "kid_subset_size": 30, "rng_seed": 3}
    theirs = kid_features_to_metric(generated, real, **draw, verbose=False)
    found = kernel_distance(real, generated, subsets=subsets, size=30, seed=3)
    assert found == pytest.approx(tuple(theirs.values()), rel=1e-10)
    whole, _ = squared_mmd(real, generated[:70], torch.zeros(70, dtype=torch.int64))
    assert whole == pytest.approx(poly_mmd(real, generated[:70]).item(), rel=1e-10)


def test_all_pairs_and_those_without_each_group():
    generated, real = gaussian(23, 4, seed=4), gaussian(31, 4, seed=5, mean=0.5)
    groups = torch.arange(23) % 4

    def expected(images):
        def mean(one, other, same):
            kernels = (one.numpy() @ other.numpy().T / 4 + 1) ** 3
            return kernels[~np.eye(len(one), dtype=bool)].mean() if same else kernels.mean()

        own = mean(images, images, True) + mean(real, real, True)
        return own - 2 * mean(images, real, False)

    whole, without = squared_mmd(real, generated, groups)
    assert whole == pytest.approx(expected(generated), rel=1e-11)
    assert len(without) == 4
    for group, found in enumerate(without):
        assert found == pytest.approx(expected(generated[groups != group]), rel=1e-11)


def test_the_mean_does_not_depend_on_the_number_of_images():
    """Of two sets of one distribution it is 0, where a Fréchet distance is the larger the fewer."""
    values = [
        squared_mmd(*gaussian(40, 5, seed).split(20), torch.zeros(20, dtype=torch.int64))[0]
        for seed in range(6, 206)
    ]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)


def test_mistakes_are_told():
    few, many = torch.zeros(20, 3), torch.zeros(2000, 3)
    sentence = "A KID of subsets of 1000: at least 1000 images are needed, got 20; raise num_images"
    with pytest.raises(UserError, match=f"^{sentence}"):
        kernel_distance(few, many)
    with pytest.raises(UserError, match="^The real features and the generated features have width"):
        kernel_distance(many, torch.zeros(2000, 2))
    with pytest.raises(UserError, match="^The real features hold NaN or infinity"):
        squared_mmd(few / 0, few, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(UserError, match="^A KID: at least 2 images are needed, got 1"):
        squared_mmd(few[:1], few, torch.zeros(20, dtype=torch.int64))
