"""Whitening against its definition: mean 0, covariance 1, whatever the features are."""

import tiny
import torch

from Network.condition import Captions
from Network.whitening import FLOOR, Whitening


def features(count=4000, width=12, dtype=torch.float32):
    """Correlated ones of very different variances, far from 0."""
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(width, width, generator=draw)).Q
    sizes = torch.logspace(0, -1, width)
    return ((torch.randn(count, width, generator=draw) * sizes) @ turn.T + 7).to(dtype)


def test_features_have_mean_0_and_covariance_1_and_stay_in_their_directions():
    given, whitening = features(), Whitening(12)
    whitening.measure(given)
    found = whitening(given)
    values = torch.linalg.eigvalsh(torch.cov(given.double().T))
    assert values[0] > 30 * FLOOR * values[-1]
    torch.testing.assert_close(found.mean(0), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(found.T), torch.eye(12), atol=0.04, rtol=0)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T)


def test_what_is_fainter_than_the_floor_stays_faint():
    given = features()
    given[:, 3] = given[:, 5]  # a direction without variance
    whitening = Whitening(12)
    whitening.measure(given)
    along = torch.zeros(12)
    along[3], along[5] = 0.5**0.5, -(0.5**0.5)
    assert (whitening(given) @ along).std() < 0.01
    assert whitening(given).isfinite().all()


def test_features_that_are_all_alike_stay_finite():
    whitening = Whitening(4)
    whitening.measure(torch.zeros(9, 4))
    assert not whitening(torch.zeros(2, 3, 4)).any()
    assert not whitening.is_measured


def test_it_does_nothing_before_it_is_measured_and_comes_back_with_its_weights():
    given, whitening, other = features(), Whitening(12), Whitening(12)
    assert torch.equal(whitening(given), given)
    assert not whitening.is_measured
    whitening.measure(given)
    other.load_state_dict(whitening.state_dict())
    assert other.is_measured
    assert torch.equal(other(given), whitening(given))


def test_half_precision_around_it_changes_nothing():
    given, whitening = features(dtype=torch.bfloat16), Whitening(12)
    whitening.measure(given)
    with torch.autocast("cpu", torch.bfloat16):
        found = whitening(given)
    assert torch.equal(found, whitening(given.float()))


def test_a_network_sees_and_learns_from_white_features():
    """As a plain one does whose captions were made white before; the null caption stays."""
    network = tiny.network(num_classes=0, caption_width=12, caption_whitening=True)
    plain = tiny.network(num_classes=0, caption_width=12)
    network.condition.whitening.measure(features())
    weights = network.state_dict()
    mean, matrix = (weights.pop(f"condition.whitening.{name}") for name in ("mean", "matrix"))
    plain.load_state_dict(weights)
    given = features(count=3 * 5, dtype=torch.float64).view(3, 5, 12)
    dropped = torch.tensor([False, False, True])
    found = network(tiny.tokens(3), Captions(given, dropped=dropped))
    white = Captions((given - mean) @ matrix, dropped=dropped)
    torch.testing.assert_close(found, plain(tiny.tokens(3), white))
    assert not torch.allclose(found[:2], plain(tiny.tokens(3), Captions(given))[:2])
    found.square().sum().backward()
    gradient = network.condition.up.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum(0).all()  # from each direction of the features
    assert not any("whitening" in name for name, _ in network.named_parameters())
