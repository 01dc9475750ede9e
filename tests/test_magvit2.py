"""Encoder and decoder of Open-MAGVIT2. Expected numbers: plain formulations, and values of
SEED-Voken's own classes (`fixtures/network/NOTES.md`)."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from fixtures.network import filler
from safetensors.torch import load_file
from torch import nn

from Network.config import TokenizerConfig
from Network.tokenizer.lookup_free import LookupFreeQuantiser
from Network.tokenizer.magvit2 import AdaptiveNorm, Decoder, DepthToSpace, Encoder

FIXTURES = Path(__file__).parent / "fixtures/network"
GOLDEN = load_file(FIXTURES / "magvit2_tiny.safetensors")
SHAPES = json.loads((FIXTURES / "magvit2_shapes.json").read_text())


def config(**changes):
    settings = {"width": 8, "multipliers": (1, 2, 2), "res_blocks": 2, "groups": 4}
    bits = {"attention_levels": (), "latent_width": 6, "codebook_size": 64, "code_width": 6}
    return TokenizerConfig(**{**settings, **bits, **changes})


def autoencoder(settings):
    parts = {"encoder": Encoder(settings), "decoder": Decoder(settings)}
    return nn.ModuleDict({**parts, "quantize": LookupFreeQuantiser(settings)})


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def golden():
    """Our parts with the weights of the stored model."""
    parts = autoencoder(config(width=32, multipliers=(1, 2), res_blocks=1, groups=32))
    weights = filler.tokenizer_weights({n: tuple(t.shape) for n, t in parts.state_dict().items()})
    sha256 = "c7411e4183ef041c6479e62c6b5bb553ed61c8c072ca47af377e3690dcb8f21b"
    assert filler.digest(weights) == sha256
    parts.load_state_dict(weights, strict=True)
    return parts.eval()


# Open-MAGVIT2's own numbers


@torch.no_grad()
def test_latents_and_tokens(golden):
    latents = golden["encoder"](GOLDEN["input"])
    torch.testing.assert_close(latents, GOLDEN["z"], rtol=0, atol=2e-5)
    assert torch.equal(golden["quantize"].nearest(latents), GOLDEN["indices"])


@torch.no_grad()
def test_decoded_images(golden):
    every_code = (torch.arange(2 * 16 * 16) * 7919 % 64).view(2, 16, 16)
    for name, tokens in (("decoded", GOLDEN["indices"]), ("grid_decoded", every_code)):
        images = golden["decoder"](golden["quantize"].lookup(tokens))
        torch.testing.assert_close(images, GOLDEN[name], rtol=0, atol=2e-5)
    assert GOLDEN["grid_decoded"].abs().max() > 1  # not clamped


@pytest.mark.parametrize(
    ("name", "multipliers", "total"),
    [("f16", (1, 1, 2, 2, 4), 115_127_829), ("f8", (1, 2, 2, 4), 112_021_653)],
)
def test_names_and_shapes_of_the_public_models(name, multipliers, total):
    bits = {"latent_width": 18, "codebook_size": 2**18, "code_width": 18}
    settings = config(width=128, multipliers=multipliers, res_blocks=4, groups=32, **bits)
    with torch.device("meta"):
        parts = autoencoder(settings)
    found = {key: list(tensor.shape) for key, tensor in parts.state_dict().items()}
    assert found == SHAPES[name]
    assert sum(parameter.numel() for parameter in parts.parameters()) == total
    images = torch.empty(1, 3, 64, 32, device="meta")
    codes, tokens, _ = parts["quantize"](parts["encoder"](images))
    stride = 2 ** (len(multipliers) - 1)
    assert tokens.shape == (1, 64 // stride, 32 // stride)
    assert parts["decoder"](codes).shape == images.shape


# The whole


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (2, 1, 1, 2)])
def test_any_depth_and_picture(multipliers):
    parts, stride = autoencoder(config(multipliers=multipliers)), 2 ** (len(multipliers) - 1)
    latents = parts["encoder"](random(2, 3, 24, 16))
    assert latents.shape == (2, 6, 24 // stride, 16 // stride)
    assert parts["decoder"](latents).shape == (2, 3, 24, 16)


def test_a_gradient_reaches_every_parameter():
    parts, images = tiny.fill(autoencoder(config())), random(4, 3, 16, 16)
    codes, _, losses = parts["quantize"](parts["encoder"](images))
    ((parts["decoder"](codes) - images).square().mean() + sum(losses.values())).backward()
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_decoding_depends_on_the_whole_grid():
    """Beyond the reach of the convolutions: through the style alone. The batch does not matter."""
    decoder = tiny.fill(Decoder(config(multipliers=(1, 1), res_blocks=1))).double()
    codes = random(2, 6, 4, 64).double().sign()
    other = codes.clone()
    other[0, :, 0, 0] *= -1
    change = (decoder(codes) - decoder(other)).abs().amax((1, 2))  # (B, W)
    assert change[0, -8:].min() > 1e-4
    assert change[1].max() == 0
    torch.testing.assert_close(decoder(codes[:1]), decoder(codes)[:1], rtol=0, atol=1e-12)


# Blocks


def test_downsampling_pads_all_sides():
    """Its outputs see one row and column of zeros above and to the left."""
    layer, x = Encoder(config()).down.get_submodule("0.downsample"), random(2, 8, 6, 10)
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    padded, found = F.pad(x, (1, 1, 1, 1)), layer(x)
    assert found.shape == (2, 8, 3, 5)
    for row in range(3):
        for column in range(5):
            window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected = torch.einsum("bchw,ochw->bo", window, layer.weight) + layer.bias
            torch.testing.assert_close(found[:, :, row, column], expected, rtol=0, atol=1e-5)


def test_depth_to_space_has_the_place_as_outer_index():
    layer, x = DepthToSpace(4), random(2, 4, 3, 5)
    deep, found = layer.conv1(x), layer(x)
    assert found.shape == (2, 4, 6, 10)
    for place, (dy, dx) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = deep[:, 4 * place : 4 * place + 4]
        assert torch.equal(found[:, :, dy::2, dx::2], expected)
    assert not torch.equal(found, F.pixel_shuffle(deep, 2))


def test_adaptive_norm():
    layer, x, codes = tiny.fill(AdaptiveNorm(6, 8, 4)), random(2, 8, 4, 6), random(2, 6, 2, 3)
    groups = x.view(2, 4, -1)
    spread = (groups.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    normed = ((groups - groups.mean(-1, keepdim=True)) / spread).view_as(x)
    flat = codes.flatten(2)
    mean = flat.mean(2)
    variance = (flat - mean[:, :, None]).square().sum(2) / 5  # unbiased: 6 tokens less 1
    gain = (variance + 1e-6).sqrt() @ layer.gamma.weight.T + layer.gamma.bias
    bias = mean @ layer.beta.weight.T + layer.beta.bias
    expected = gain[:, :, None, None] * normed + bias[:, :, None, None]
    torch.testing.assert_close(layer(x, codes), expected, rtol=0, atol=1e-5)


def test_adaptive_norm_of_equal_codes_is_finite():
    layer, codes = tiny.fill(AdaptiveNorm(6, 8, 4)), torch.ones(2, 6, 2, 3, requires_grad=True)
    layer(random(2, 8, 4, 6), codes).sum().backward()
    assert codes.grad is not None
    assert codes.grad.isfinite().all()


def test_its_residual_blocks_have_no_biases():
    names = [name for name, _ in autoencoder(config()).named_parameters() if ".block" in name]
    kernels = [name for name in names if ".conv" in name or ".nin_shortcut" in name]
    assert len(kernels) > 4
    assert all(name.endswith("weight") for name in kernels)
