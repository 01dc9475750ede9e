"""The lookup-free quantiser. Expected numbers: the formulas over all codes at once, and values of
SEED-Voken's own class (`fixtures/network/NOTES.md`)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import Network.tokenizer.lookup_free
from Network.config import TokenizerConfig, UserError
from Network.tokenizer.lookup_free import (
    LookupFreeQuantiser,
    entropy_loss,
    join_tokens,
    split_tokens,
)

GOLDEN = load_file(Path(__file__).parent / "fixtures/network/magvit2_tiny.safetensors")


def quantiser(bits=6, **changes):
    sizes = {"latent_width": bits, "codebook_size": 2**bits, "code_width": bits}
    sizes |= {"family": "magvit2", "attention_levels": ()}
    return LookupFreeQuantiser(TokenizerConfig(**{**sizes, **changes}))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entropies(z):
    """Latents (T, C) -> mean entropy of a token, entropy of the mean token: a row of all codes."""
    bits = z.shape[1]
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).view(-1, bits).to(z)
    logits = 2 * z @ codes.T / 0.01
    probabilities = logits.softmax(1)
    mean = probabilities.mean(0)
    by_token = -(probabilities * logits.log_softmax(1)).sum(1).mean()
    return by_token, -(mean * (mean + 1e-5).log()).sum()


# Tokens and codes


def test_tokens_and_codes_of_the_reference():
    codes, tokens, _ = quantiser()(GOLDEN["z"])
    assert torch.equal(tokens, GOLDEN["indices"])
    torch.testing.assert_close(codes, GOLDEN["z"].sign(), rtol=0, atol=1e-6)


def test_channel_0_is_the_least_significant_bit():
    layer, z = quantiser(), -torch.ones(1, 6, 2, 3)
    z[0, 0, 0, 0] = z[0, 1, 0, 1] = z[0, 5, 1, 2] = 1
    expected = torch.tensor([[[1, 2, 0], [0, 0, 32]]])
    assert torch.equal(layer.nearest(z), expected)
    assert torch.equal(layer.lookup(expected), z)


def test_zero_counts_as_a_bit_of_0():
    z = torch.tensor([0.0, -0.0, 1e-30, 3, -1e-30, -3]).view(1, 6, 1, 1)
    assert quantiser().nearest(z).item() == 4 + 8


@pytest.mark.parametrize("bits", [1, 6, 18])
def test_every_token_is_found_again(bits):
    layer, tokens = quantiser(bits), torch.arange(2**bits).view(2, -1, 1)
    codes = layer.lookup(tokens)
    assert codes.shape == (2, bits, 2 ** (bits - 1), 1)
    assert (codes.abs() == 1).all()
    assert torch.equal(layer.nearest(codes), tokens)


def test_a_token_is_the_nearest_code():
    layer, z = quantiser(), random(2, 6, 3, 4)
    table = layer.lookup(torch.arange(64).view(1, 64, 1))[0, :, :, 0].T  # (K, C)
    expected = torch.cdist(z.movedim(1, -1).flatten(0, 2), table).argmin(1)
    assert torch.equal(layer.nearest(z).flatten(), expected)


def test_it_has_no_state():
    assert not quantiser().state_dict()


@pytest.mark.parametrize("changes", [{"codebook_size": 63}])
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError, match=rf"tokenizer\.{next(iter(changes))}=.*code_width=6"):
        quantiser(**changes)


# Losses


def test_losses_and_gradient_of_the_reference():
    z = GOLDEN["z"].clone().requires_grad_()
    losses = quantiser()(z)[2]
    total = losses["commitment"] + losses["entropy"]
    total.backward()
    # The goldens' tiny.json: commitment, entropy_aux_loss, total
    assert losses["commitment"].item() == pytest.approx(0.25 * 0.4363459050655365, abs=1e-5)
    assert losses["entropy"].item() == pytest.approx(0.1 * -3.3262784481048584, abs=1e-5)
    assert total.item() == pytest.approx(-0.22354137897491455, abs=1e-5)
    torch.testing.assert_close(z.grad, GOLDEN["grad_z"], rtol=0, atol=1e-5)


def test_the_entropy_of_a_token_is_a_sum_over_bits():
    z = GOLDEN["z"].movedim(1, -1).flatten(0, 2)
    logits = 400 * z
    found = Network.tokenizer.lookup_free._entropy_of_bits(logits).sum(1).mean()
    assert found.item() == pytest.approx(0.030200887471437454, abs=1e-7)  # per_sample_entropy


@pytest.mark.parametrize("bits", [1, 2, 5, 6])
def test_the_entropy_equals_the_plain_formula(bits):
    """Latents on the scale of the temperature, where neither term is flat; some are zero."""
    z = 0.01 * random(200, bits)
    z[0] = 0
    found, expected = z.clone().requires_grad_(), z.double().requires_grad_()
    loss = entropy_loss(found)
    loss.backward()
    by_token, mean = entropies(expected)
    (by_token - mean).backward()
    assert loss.item() == pytest.approx((by_token - mean).item(), abs=1e-5)
    assert found.grad is not None
    assert expected.grad is not None
    assert found.grad.abs().max() > 0.1
    torch.testing.assert_close(found.grad, expected.grad.float(), rtol=1e-4, atol=1e-5)


def test_the_entropy_of_known_tokens():
    """Certain and evenly spread over 64 codes: -log 64. Undecided: 0. Certain and equal: 0."""
    even = quantiser().lookup(torch.arange(64).view(1, 64, 1))[0, :, :, 0].T
    expected = -torch.log(torch.tensor(1 / 64 + 1e-5)).item()
    assert entropy_loss(even).item() == pytest.approx(-expected, abs=1e-5)
    assert entropy_loss(torch.zeros(3, 6)).item() == pytest.approx(0, abs=1e-3)  # the 1e-5
    assert entropy_loss(even[:1].repeat(5, 1)).item() == pytest.approx(0, abs=2e-5)


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation has made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.numel())
        return made


def entropy_with_gradient(z):
    """Loss, gradient, the largest tensor made on the way, the elements kept for the backward."""
    leaf, kept = z.clone().requires_grad_(), []
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    )
    with Sizes() as sizes:
        with keep:
            loss = entropy_loss(leaf)
        gradient = torch.autograd.grad(loss, leaf)[0]
    return loss, gradient, sizes.largest, sum(kept)


def test_the_memory_of_the_entropy_is_bounded(monkeypatch):
    """By the latents (300 x 12) and one row of all codes; chunks do not change the loss."""
    z, limit = 0.01 * random(300, 12), 2**12
    loss, gradient, largest, _ = entropy_with_gradient(z)
    assert largest > limit  # 300 tokens x 64 halves: the test sees what it looks for
    monkeypatch.setattr(Network.tokenizer.lookup_free, "TOKENS_AT_ONCE", 8)
    found, in_chunks, largest, kept = entropy_with_gradient(z)
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_chunks, gradient, rtol=0, atol=1e-5)
    assert largest <= limit
    assert kept < 12 * limit


def test_all_bits_of_the_public_models():
    """262,144 codes, tokens few enough for the plain formula."""
    z = 0.003 * random(6, 18)
    found, expected = z.clone().requires_grad_(), z.double().requires_grad_()
    loss, (by_token, mean) = entropy_loss(found), entropies(expected)
    assert loss.item() == pytest.approx((by_token - mean).item(), abs=1e-5)
    gradient = torch.autograd.grad(loss, found)[0]
    plain = torch.autograd.grad(by_token - mean, expected)[0]
    torch.testing.assert_close(gradient, plain.float(), rtol=0, atol=1e-4)
    assert gradient.abs().max() > 1


def test_codes_carry_the_gradient_of_the_latents():
    z, weights = random(2, 6, 3, 3).requires_grad_(), random(2, 6, 3, 3, seed=1)
    codes, tokens, _ = quantiser()(z)
    (codes * weights).sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, weights)
    torch.testing.assert_close(codes.detach(), quantiser().lookup(tokens), rtol=0, atol=1e-6)


def test_the_weight_of_the_commitment():
    z = random(2, 6, 3, 3)
    losses = quantiser(commitment_weight=2.0)(z)[2]
    assert losses["commitment"].item() == pytest.approx(2 * (z - z.sign()).square().mean().item())


def test_autocast_does_not_coarsen_the_entropy():
    layer, z = quantiser(), 0.02 * random(2, 6, 8, 8)
    expected = layer(z)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(z)
    assert torch.equal(found[1], expected[1])
    assert found[2] == expected[2]


# Tokens of two smaller codebooks


def test_split_tokens():
    """Open-MAGVIT2's `factorized_bits: [6, 12]`: index = low + 64 high."""
    tokens = torch.tensor([[0, 1, 63], [64, 65, 2**18 - 1]])
    low, high = split_tokens(tokens, 6)
    assert low.tolist() == [[0, 1, 63], [0, 1, 63]]
    assert high.tolist() == [[0, 0, 0], [1, 1, 4095]]


@pytest.mark.parametrize("low_bits", [6, 9, 12])
def test_split_tokens_are_joined_again(low_bits):
    tokens = torch.arange(2**18)
    low, high = split_tokens(tokens, low_bits)
    assert low.max() == 2**low_bits - 1
    assert high.max() == 2 ** (18 - low_bits) - 1
    assert torch.equal(join_tokens(low, high, low_bits), tokens)


def test_split_tokens_are_those_of_the_channels():
    z = random(1, 18, 3, 4)
    low, high = split_tokens(quantiser(18).nearest(z), 6)
    assert torch.equal(low, quantiser(6).nearest(z[:, :6]))
    assert torch.equal(high, quantiser(12).nearest(z[:, 6:]))
