"""Blocks, autoencoder and quantiser. Expected numbers: plain formulations, and values of
taming-transformers' own classes (`fixtures/network/NOTES.md`)."""

from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from fixtures.network import filler
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import Network.Taming.quantiser
from Network import build_tokenizer
from Network.config import TokenizerConfig
from Network.Taming.autoencoder import Decoder, Encoder
from Network.Taming.blocks import AttentionBlock, Downsample, ResBlock, Upsample, group_norm
from Network.Taming.quantiser import VectorQuantiser

GOLDEN = load_file(Path(__file__).parent / "fixtures/network/taming_tiny.safetensors")
TINY = TokenizerConfig(
    width=32, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), latent_width=8,
    codebook_size=64, code_width=8, l2_norm=False, codebook_weight=0.25, commitment_weight=1.0,
)  # fmt: skip


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def golden():
    """Our tokenizer with the weights of the stored one."""
    tokenizer = build_tokenizer(TINY)
    weights = filler.tokenizer_weights(
        {n: tuple(t.shape) for n, t in tokenizer.state_dict().items()}
    )
    sha256 = "dcf2d9301c149c15f7659e268b0408fdb31c018f4bc8df0ad12dd8751a5f85a4"
    assert filler.digest(weights) == sha256
    tokenizer.load_state_dict(weights, strict=True)
    return tokenizer.eval()


# taming-transformers' own numbers. Tolerance: float32 on one thread or two differs by 3.5e-6


def test_latents_and_tokens(golden):
    with torch.no_grad():
        latents = golden.latents(GOLDEN["input"])
        tokens = golden.encode(GOLDEN["input"])
    torch.testing.assert_close(latents, GOLDEN["z"], rtol=0, atol=2e-5)
    assert torch.equal(tokens, GOLDEN["indices"].long())


def test_decoded_images(golden):
    grid = (torch.arange(2 * 16 * 16) * 7919 % 64).view(2, 16, 16)
    with torch.no_grad():
        decoded = golden.decode(GOLDEN["indices"].long(), clamp=False)
        every_code = golden.decode(grid, clamp=False)
        reconstruction, tokens, _ = golden(GOLDEN["input"])
    torch.testing.assert_close(decoded, GOLDEN["decoded"], rtol=0, atol=2e-5)
    torch.testing.assert_close(every_code, GOLDEN["grid_decoded"], rtol=0, atol=2e-5)
    torch.testing.assert_close(reconstruction, GOLDEN["decoded"], rtol=0, atol=2e-5)
    assert torch.equal(tokens, GOLDEN["indices"].long())
    assert every_code.abs().max() > 1
    assert torch.equal(golden.decode(grid), golden.decode(grid, clamp=False).clamp(-1, 1))


def test_loss_and_gradients_of_the_quantiser(golden):
    z = GOLDEN["z"].clone().requires_grad_()
    golden.zero_grad()
    losses = golden.quantise(z)[2]
    loss = losses["codebook"] + losses["commitment"]
    loss.backward()
    assert loss.item() == pytest.approx(0.46001002192497253, abs=1e-5)  # goldens' tiny.json
    torch.testing.assert_close(z.grad, GOLDEN["grad_z"], rtol=0, atol=1e-5)
    gradient = golden.quantize.embedding.weight.grad
    torch.testing.assert_close(gradient, GOLDEN["grad_codebook"], rtol=0, atol=1e-5)


# Blocks


def test_downsampling_pads_right_and_below_only():
    layer, x = Downsample(4), random(2, 4, 6, 10)
    found = layer(x)
    assert found.shape == (2, 4, 3, 5)
    for row in range(3):
        for column in range(5):
            window = torch.zeros(2, 4, 3, 3)
            part = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            window[:, :, : part.shape[2], : part.shape[3]] = part
            expected = torch.einsum("bchw,ochw->bo", window, layer.conv.weight) + layer.conv.bias
            torch.testing.assert_close(found[:, :, row, column], expected, rtol=0, atol=1e-5)


def test_upsampling_repeats_before_the_convolution():
    layer, x = Upsample(4), random(2, 4, 3, 5)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), layer.conv(repeated))


def test_attention_is_over_all_positions():
    layer, x = tiny.fill(AttentionBlock(32, 32)).double(), random(2, 32, 3, 5).double()
    flat = layer.norm(x).flatten(2)  # (B, C, H W)
    q, k, v = (
        torch.einsum("oc,bcn->bon", part.weight[:, :, 0, 0], flat) + part.bias[:, None]
        for part in (layer.q, layer.k, layer.v)
    )
    weights = (torch.einsum("bcn,bcm->bnm", q, k) / 32**0.5).softmax(-1)
    attended = torch.einsum("bnm,bcm->bcn", weights, v).view(2, 32, 3, 5)
    torch.testing.assert_close(layer(x), x + layer.proj_out(attended), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels_out", [32, 64])
def test_residual_block(channels_out):
    block, x = tiny.fill(ResBlock(32, channels_out, 8)), random(2, 32, 4, 4)
    assert hasattr(block, "nin_shortcut") == (channels_out != 32)
    with torch.no_grad():
        branch = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
        shortcut = x if channels_out == 32 else block.nin_shortcut(x)
    torch.testing.assert_close(block(x).detach(), shortcut + branch)


def test_group_norm():
    norm, x = tiny.fill(group_norm(64, 8)), random(2, 64, 3, 5)
    groups = x.view(2, 8, -1)
    variance = groups.var(-1, correction=0, keepdim=True) + 1e-6
    expected = ((groups - groups.mean(-1, keepdim=True)) / variance.sqrt()).view_as(x)
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


# Autoencoder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder_middle": "blocks", "decoder_middle": "none"},
        {"encoder_middle": "none", "decoder_middle": "blocks"},
        {"attention_levels": ()},
        {"res_blocks": 2},
    ],
)
def test_any_depth_and_picture(changes):
    config = tiny.tokenizer_config(multipliers=(1, 2, 2), **changes)
    latents = Encoder(config)(random(2, 3, 24, 16))
    assert latents.shape == (2, 8, 6, 4)
    assert Decoder(config)(latents).shape == (2, 3, 24, 16)


def test_attention_stands_where_it_is_configured():
    config = tiny.tokenizer_config(multipliers=(1, 2, 2), attention_levels=(0, 2), res_blocks=2)
    names = build_tokenizer(config).state_dict()
    found = {name.rpartition(".q.weight")[0] for name in names if ".q.weight" in name}
    down = {f"encoder.down.{level}.attn.{i}" for level in (0, 2) for i in range(2)}
    up = {f"decoder.up.{level}.attn.{i}" for level in (0, 2) for i in range(3)}
    assert found == down | up | {"encoder.mid.attn_1", "decoder.mid.attn_1"}


@pytest.mark.parametrize("l2_norm", [False, True])
def test_a_gradient_reaches_every_parameter(l2_norm):
    tokenizer = tiny.tokenizer(l2_norm=l2_norm)
    images = random(4, 3, 16, 16)
    reconstruction, _, losses = tokenizer(images)
    ((reconstruction - images).square().mean() + sum(losses.values())).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


# Quantiser


def quantiser(**changes):
    return tiny.fill(VectorQuantiser(tiny.tokenizer_config(**changes)))


@pytest.mark.parametrize("l2_norm", [False, True])
def test_a_token_is_the_nearest_code(l2_norm):
    """On the unit sphere the nearest code is the one with the largest cosine."""
    layer, z = quantiser(l2_norm=l2_norm), random(3, 4, 5, 6)
    codes, tokens, _ = layer(z)
    flat, table = z.movedim(1, -1).flatten(0, 2), layer.embedding.weight
    if l2_norm:
        expected = F.cosine_similarity(flat[:, None], table[None], dim=-1).argmax(1)
        table = table / table.norm(dim=1, keepdim=True)
    else:
        expected = torch.cdist(flat, table).argmin(1)
    assert torch.equal(tokens.flatten(), expected)
    assert (tokens.shape, tokens.dtype) == ((3, 5, 6), torch.int64)
    rows = table[tokens].movedim(-1, 1)
    torch.testing.assert_close(codes, rows)
    torch.testing.assert_close(layer.lookup(tokens), rows)


def test_lengths_do_not_matter_on_the_sphere():
    layer, z = quantiser(l2_norm=True), random(3, 4, 5, 6)
    with torch.no_grad():
        expected = layer(z)
        layer.embedding.weight *= torch.linspace(0.1, 9, 11)[:, None]
        torch.testing.assert_close(layer(7 * z), expected)


def test_the_first_of_equal_codes_wins():
    layer = quantiser(l2_norm=False)
    with torch.no_grad():
        layer.embedding.weight[7] = layer.embedding.weight[2]
    at_the_code = layer.embedding.weight[2].view(1, 4, 1, 1)
    assert layer(at_the_code)[1].item() == 2


def test_codes_carry_the_gradient_of_the_latents():
    """Straight through: as if nothing had been quantised, and nothing for the codebook."""
    layer, z = quantiser(l2_norm=False), random(2, 4, 3, 3).requires_grad_()
    weights = random(2, 4, 3, 3, seed=1)
    (layer(z)[0] * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    assert layer.embedding.weight.grad is None


def test_the_two_terms_move_one_side_each():
    layer = quantiser(l2_norm=False, codebook_weight=2.0, commitment_weight=0.5)
    z = random(2, 4, 3, 3).requires_grad_()
    losses, table = layer(z)[2], layer.embedding.weight
    error = (layer.lookup(layer(z)[1]) - z).square().mean().item()
    assert losses["codebook"].item() == pytest.approx(2 * error)
    assert losses["commitment"].item() == pytest.approx(error / 2)
    for name, moved, still in (("codebook", table, z), ("commitment", z, table)):
        found = torch.autograd.grad(losses[name], (moved, still), allow_unused=True)
        assert found[0].any()
        assert found[1] is None


@pytest.mark.parametrize("l2_norm", [False, True])
def test_autocast_does_not_coarsen_the_search(l2_norm):
    """In bfloat16 many of the 512 codes would be equally near."""
    layer = quantiser(l2_norm=l2_norm, codebook_size=512)
    z = random(4, 4, 16, 16)
    codes, tokens, losses = layer(z)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(z)
    assert torch.equal(found[1], tokens)
    assert torch.equal(found[0], codes)
    assert found[2] == losses


def test_the_memory_of_the_search_is_bounded(monkeypatch):
    torch.manual_seed(0)
    quantiser, z = VectorQuantiser(TokenizerConfig(codebook_size=50)), torch.randn(2, 8, 3, 5)
    at_once = quantiser.nearest(z)
    monkeypatch.setattr(Network.Taming.quantiser, "DISTANCES_AT_ONCE", 200)  # 4 latents at a time
    assert quantiser.nearest(z).equal(at_once)


@pytest.mark.parametrize("at_once", [2**22, 40])
def test_the_entropy_is_that_of_all_tokens(monkeypatch, at_once):
    """The plain formula in float64, whatever piece the tokens are computed in."""
    monkeypatch.setattr("Network.Taming.quantiser.DISTANCES_AT_ONCE", at_once)
    z, codes = random(23, 4).mul(0.1), random(8, 4, seed=1).mul(0.1)
    found = [t.clone().requires_grad_() for t in (z, codes)]
    expected = [t.double().requires_grad_() for t in (z, codes)]
    loss = Network.Taming.quantiser.entropy_loss(*found)
    logs = (-torch.cdist(*expected).square() / 0.01).log_softmax(1)
    mean = logs.exp().mean(0)
    plain = -(logs.exp() * logs).sum(1).mean() + (mean * (mean + 1e-5).log()).sum()
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    assert abs(plain.item()) > 0.1
    loss.backward()
    plain.backward()
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-3, atol=1e-4)


def test_an_upsampled_convolution_is_computed_on_what_differs():
    """As doubling and convolving, with 4/9 of the products."""
    layer, x = Upsample(6), random(2, 6, 16, 20).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        found = layer(x)
    expected = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    plain = 2 * 9 * 6 * 6 * found[:, 0].numel()
    assert counter.get_total_flops() < 0.5 * plain
    weights = random(*found.shape, seed=1)
    inputs = (x, layer.conv.weight, layer.conv.bias)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
