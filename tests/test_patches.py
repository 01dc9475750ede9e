"""Codes of single patches."""

import pytest
import tiny
import torch
import torch.nn.functional as F

from Network.config import UserError
from Network.tokenizer.patches import Encoder


def encoder(**changes):
    settings = {"family": "patches", "multipliers": (1, 2, 2), "attention_levels": ()}
    return tiny.fill(Encoder(tiny.tokenizer_config(**settings | changes))).double()


def images(batch=2, height=8, width=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, height, width, dtype=torch.float64, generator=generator) * 2 - 1


def test_each_latent_is_a_small_network_of_its_own_pixels():
    parts, pictures = encoder(res_blocks=2), images()
    names = {name: p.flatten(1) if p.dim() > 1 else p for name, p in parts.named_parameters()}
    patches = F.unfold(pictures, 4, stride=4).mT  # (B, N, 3 * 4 * 4)

    def linear(x, name):
        return x @ names[f"{name}.weight"].T + names[f"{name}.bias"]

    x = linear(patches, "conv_in")
    for block in ("block.0", "block.1"):
        x = x + linear(F.silu(linear(x, f"{block}.conv1")), f"{block}.conv2")
    expected = linear(F.silu(x), "conv_out").mT.unflatten(2, (2, 3))
    torch.testing.assert_close(parts(pictures), expected, rtol=0, atol=1e-12)


def test_a_code_knows_nothing_of_the_pixels_around_it():
    """Those of the taming family do: its group norms see the whole image."""
    pictures = images(1)
    others = pictures.clone()
    others[:, :, :, 4:] = 0
    for family, same in (("patches", True), ("taming", False)):
        tokenizer = tiny.tokenizer(
            family=family, multipliers=(1, 2, 2), attention_levels=()
        ).double()
        one, other = tokenizer.latents(pictures), tokenizer.latents(others)
        assert torch.equal(one[..., 0], other[..., 0]) == same
        assert not torch.equal(one[..., 1], other[..., 1])


def test_every_parameter_gets_a_gradient():
    parts = encoder()
    parts(images()).square().sum().backward()
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_middle_that_it_has_not_is_refused():
    with pytest.raises(UserError) as error:
        tiny.tokenizer(family="patches", encoder_middle="none")
    assert str(error.value) == (
        "tokenizer.encoder_middle=none has no effect on the family patches, whose encoder has no "
        "middle: leave it out."
    )
    tiny.tokenizer(family="patches", decoder_middle="none")  # that of taming has one
