"""What tokenizer and discriminator are told. Expected numbers: the formulas by hand."""

import math

import pytest
import torch
from torch import nn

from Network.config import UserError
from Network.tokenizer.discriminator import PatchDiscriminator
from Trainer import adversary
from Trainer.config import AdversaryConfig


def logits(*values):
    """Two images, each with patches 1 x n."""
    return torch.tensor(values).view(2, 1, 1, -1)


def log1pexp(x):
    return math.log1p(math.exp(x))


def test_hinge_by_hand():
    real, drawn = logits(2.0, 0.5, -1.0, 0.0), logits(-3.0, 0.5, 0.0, 1.0)
    found = adversary.discriminator_term("hinge", real, drawn)
    assert found.item() == pytest.approx(0.5 * ((0 + 0.5 + 2 + 1) / 4 + (0 + 1.5 + 1 + 2) / 4))
    assert adversary.tokenizer_term("hinge", drawn).item() == pytest.approx(1.5 / 4)


def test_non_saturating_by_hand():
    real, drawn = logits(2.0, 0.5, -1.0, 0.0), logits(-3.0, 0.5, 0.0, 1.0)
    found = adversary.discriminator_term("non-saturating", real, drawn)
    expected = sum(log1pexp(-x) for x in (2, 0.5, -1, 0)) / 4
    expected = 0.5 * (expected + sum(log1pexp(x) for x in (-3, 0.5, 0, 1)) / 4)
    assert found.item() == pytest.approx(expected)
    # softplus of minus the mean of each image, as in Open-MAGVIT2
    told = adversary.tokenizer_term("non-saturating", drawn)
    assert told.item() == pytest.approx((log1pexp(1.25) + log1pexp(-0.5)) / 2)


@pytest.mark.parametrize("kind", ["hinge", "non-saturating"])
def test_each_is_told_the_opposite(kind):
    real, drawn = (logits(0.1, -0.2, 0.3, 0.4).requires_grad_() for _ in range(2))
    adversary.discriminator_term(kind, real, drawn).backward()
    heard = logits(0.1, -0.2, 0.3, 0.4).requires_grad_()
    adversary.tokenizer_term(kind, heard).backward()
    assert (real.grad < 0).all()  # a step against the gradient lifts real ones
    assert (drawn.grad > 0).all()
    assert (heard.grad < 0).all()


def test_lecam_by_hand():
    """Tseng et al., 2021, eq. 3, one-sided: the means are those of real and of drawn images."""
    means = torch.tensor([1.0, -1.0])
    real, drawn = logits(2.0, -2.0, 0.0, -1.0), logits(-3.0, 1.5, 0.0, 1.0)
    expected = (9 + 0 + 1 + 0) / 4 + (16 + 0 + 1 + 0) / 4
    assert adversary.lecam_term(means, real, drawn).item() == pytest.approx(expected)


def test_means_move_by_a_thousandth():
    """Once a step, towards the mean over its parts."""
    real, drawn = logits(3.0, 5.0), logits(0.0, 2.0)
    parts = [adversary.logit_means(adversary.Verdicts(real + n, drawn, drawn)) for n in (-1, 1)]
    assert parts[0].tolist() == [3, 1]
    found = adversary.moved_means(torch.tensor([1.0, -1.0]), parts)
    torch.testing.assert_close(found, torch.tensor([1.003, -0.998]))


def test_the_adaptive_weight_balances_the_last_layer():
    last = nn.Parameter(torch.tensor([1.0, 2.0]))
    seen, fooled = 3 * last.sum(), 0.5 * last[0]
    found = adversary.adaptive_weight(seen, fooled, last)
    assert found.item() == pytest.approx(3 * math.sqrt(2) / (0.5 + 1e-4))
    assert not found.requires_grad
    assert adversary.adaptive_weight(seen, 0 * last[0], last).item() == pytest.approx(1e4)
    (seen + found * fooled).backward()  # the graph is still there
    assert last.grad.norm() > 0


def test_neither_network_learns_what_the_other_is_told():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(4, 2)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    drawn = (images * 0.5).requires_grad_()
    found = adversary.verdicts(discriminator, images, drawn)
    adversary.tokenizer_term("hinge", found.heard).backward()
    assert drawn.grad.any()
    assert all(p.grad is None for p in discriminator.parameters())
    drawn.grad = None
    adversary.discriminator_term("hinge", found.real, found.drawn).backward()
    assert drawn.grad is None
    assert all(p.grad.any() for p in discriminator.parameters() if p.dim() > 1)
    torch.testing.assert_close(found.heard, found.drawn)


def test_a_picture_without_a_patch_is_refused():
    assert adversary.build_discriminator(AdversaryConfig(weight=0), 8) is None
    assert adversary.build_discriminator(AdversaryConfig(weight=1, width=2), 24) is not None
    with pytest.raises(UserError) as error:
        adversary.build_discriminator(AdversaryConfig(weight=1), 23)
    assert str(error.value) == (
        "data.image_size=23 is too small for a discriminator of adversary.depth=3, which needs 24; "
        "lower adversary.depth."
    )
