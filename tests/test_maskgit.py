"""Encoder and decoder of MaskGIT's VQGAN. Expected numbers: plain formulations, and values of its
PyTorch port (`fixtures/network/NOTES.md`)."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from fixtures.network import filler
from safetensors.torch import load_file

from Network.config import TokenizerConfig
from Network.Taming.quantiser import VectorQuantiser
from Network.tokenizer.maskgit import Decoder, Down, Encoder, ResBlock, Up

FIXTURES = Path(__file__).parent / "fixtures/network"
GOLDEN = load_file(FIXTURES / "maskgit_tiny.safetensors")
SHAPES = json.loads((FIXTURES / "maskgit_vq_shapes.json").read_text())
PUBLIC = TokenizerConfig(
    attention_levels=(), codebook_size=1024, code_width=256, l2_norm=False,
    codebook_weight=0.25, commitment_weight=1.0,
)  # fmt: skip
TINY = TokenizerConfig(
    width=32, multipliers=(1, 2), res_blocks=1, attention_levels=(), latent_width=8,
    codebook_size=64, code_width=8, l2_norm=False, codebook_weight=0.25, commitment_weight=1.0,
)  # fmt: skip


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(config):
    """The parts under their official names."""
    parts = {"encoder": Encoder, "decoder": Decoder, "quantize": VectorQuantiser}
    return torch.nn.ModuleDict({name: part(config) for name, part in parts.items()})


def small(**changes):
    """A code is as wide as a latent: no convolution stands between them."""
    return tiny.tokenizer_config(attention_levels=(), latent_width=4, l2_norm=False, **changes)


@pytest.fixture(scope="module")
def golden():
    """Our parts with the weights of the stored ones."""
    parts = model(TINY)
    weights = filler.tokenizer_weights({n: tuple(t.shape) for n, t in parts.state_dict().items()})
    sha256 = "a0e60fa47ea53fb7bf759d9ac46c951e815b5d6a8eba8b5a46d9eede3061d089"
    assert filler.digest(weights) == sha256
    parts.load_state_dict(weights, strict=True)
    return parts.eval()


# The port's own numbers; its pixels are in [0, 1]


def test_latents_and_tokens(golden):
    with torch.no_grad():
        latents = golden["encoder"](GOLDEN["input"])
        tokens = golden["quantize"](latents)[1]
    torch.testing.assert_close(latents, GOLDEN["z"], rtol=0, atol=2e-5)
    assert torch.equal(tokens, GOLDEN["indices"].long())


def test_decoded_images(golden):
    every_code = (torch.arange(2 * 16 * 16) * 7919 % 64).view(2, 16, 16)
    for tokens, name in ((GOLDEN["indices"].long(), "decoded"), (every_code, "grid_decoded")):
        with torch.no_grad():
            images = golden["decoder"](golden["quantize"].lookup(tokens))
        torch.testing.assert_close(images, GOLDEN[name], rtol=0, atol=2e-5)


def test_loss_and_gradients_of_the_quantiser(golden):
    z = GOLDEN["z"].clone().requires_grad_()
    golden.zero_grad()
    loss = sum(golden["quantize"](z)[2].values())
    loss.backward()
    assert loss.item() == pytest.approx(0.41462332010269165, abs=1e-5)  # goldens' tiny.json
    torch.testing.assert_close(z.grad, GOLDEN["grad_z"], rtol=0, atol=1e-5)
    gradient = golden["quantize"].embedding.weight.grad
    torch.testing.assert_close(gradient, GOLDEN["grad_codebook"], rtol=0, atol=1e-5)


def test_names_and_shapes_of_the_public_model():
    with torch.device("meta"):
        parts = model(PUBLIC)
    assert {name: list(tensor.shape) for name, tensor in parts.state_dict().items()} == SHAPES
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    # Counted on the port's classes
    assert counts == {"encoder": 23_775_104, "decoder": 30_478_339, "quantize": 262_144}


# Blocks


@pytest.mark.parametrize("channels_out", [8, 16])
def test_residual_block(channels_out):
    block, x = tiny.fill(ResBlock(8, channels_out, 4)), random(2, 8, 4, 6)
    with torch.no_grad():
        branch = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
        expected = branch + x if channels_out == 8 else branch + block.nin_shortcut(branch)
        torch.testing.assert_close(block(x), expected)


def test_where_the_channels_change_the_input_counts_through_its_norm_only():
    """A group norm takes scale and shift away: what is left of them came past the branch."""
    x = random(2, 8, 4, 6).double()
    same, changed = (tiny.fill(ResBlock(8, channels, 4)).double() for channels in (8, 16))
    with torch.no_grad():
        torch.testing.assert_close(changed(3 * x + 5), changed(x), rtol=0, atol=1e-4)
        left = same(3 * x + 5) - same(x)
    torch.testing.assert_close(left, 2 * x + 5, rtol=0, atol=1e-4)


def test_downsampling_takes_the_mean_of_four_pixels():
    first, last = (tiny.fill(Down(small(), level)) for level in (0, 1))
    with torch.no_grad():
        inside = first.block(random(2, 4, 6, 10))
        cells = inside.view(2, 4, 3, 2, 5, 2)  # rows and columns of a cell: dimensions 3 and 5
        torch.testing.assert_close(first(random(2, 4, 6, 10)), cells.mean((3, 5)))
        assert last(cells.mean((3, 5))).shape == (2, 8, 3, 5)


def test_upsampling_repeats_before_the_convolution():
    first, last = (tiny.fill(Up(small(), level)) for level in (0, 1))
    x = random(2, 8, 3, 5)
    with torch.no_grad():
        repeated = last.block(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(last(x), last.upsample_conv(repeated))
        assert torch.equal(first(x), first.block(x))


# Encoder and decoder


@pytest.mark.parametrize(("multipliers", "res_blocks"), [((2,), 1), ((1, 2, 2), 1), ((1, 2), 3)])
def test_any_depth_and_picture(multipliers, res_blocks):
    parts = model(small(multipliers=multipliers, res_blocks=res_blocks))
    latents = parts["encoder"](random(2, 3, 24, 16))
    stride = 2 ** (len(multipliers) - 1)
    assert latents.shape == (2, 4, 24 // stride, 16 // stride)
    assert parts["decoder"](latents).shape == (2, 3, 24, 16)


@pytest.mark.parametrize(
    ("part", "size", "moved"),
    [
        # 3 pixels by convolutions, half of them, 4 tokens by convolutions
        (Encoder, (3, 48, 80), (slice(0, 6), slice(34, 40))),
        # 5 tokens by convolutions, twice as many pixels, 4 pixels by convolutions
        (Decoder, (4, 24, 40), (slice(0, 16), slice(64, 80))),
    ],
)
def test_without_attention_a_change_stays_near(part, size, moved):
    """Upper right corner; the norms, which would carry it everywhere, are taken out."""
    layers = tiny.fill(part(small())).double()
    for norm in (m for m in layers.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda x: x
    x = random(1, *size).double()
    other = x.clone()
    other[:, :, 0, -1] += 1
    with torch.no_grad():
        found = (layers(x) - layers(other)).abs().amax(1)[0] > 1e-12
    expected = torch.zeros_like(found)
    expected[moved] = True
    assert torch.equal(found, expected)


def test_a_gradient_reaches_every_parameter():
    parts = tiny.fill(model(small(multipliers=(1, 2, 2), res_blocks=2)))
    images = random(4, 3, 16, 16)
    codes, _, losses = parts["quantize"](parts["encoder"](images))
    ((parts["decoder"](codes) - images).square().mean() + sum(losses.values())).backward()
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
