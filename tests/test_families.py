"""Every family behind the one protocol. Names, shapes and totals: their official classes
(`fixtures/network/NOTES.md`)."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from fixtures.network import filler
from safetensors.torch import load_file, save_file

from MaskGIL.weights import load_tokenizer, open_tokenizer, save_weights
from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError
from Network.tokenizer import FAMILIES, NAMED

FIXTURES = Path(__file__).parent / "fixtures/network"
MAGVIT2 = json.loads((FIXTURES / "magvit2_shapes.json").read_text())
MASKGIT = json.loads((FIXTURES / "maskgit_vq_shapes.json").read_text())
TOTALS = {
    "llamagen-vq16": 71_883_403,
    "llamagen-vq8": 70_109_835,
    "taming-f16-1024": 72_141_699,
    "taming-f16-16384": 76_073_859,
    "maskgit-vq": 54_515_587,
    "chameleon-vq": 68_718_467,
    "magvit2-f16": 115_127_829,
    "magvit2-f8": 112_021_653,
}
OWN = {"magvit2": {"latent_width": 4, "code_width": 4, "codebook_size": 16}}
OWN["maskgit"] = {"latent_width": 4}
OWN = {family: {**changes, "attention_levels": ()} for family, changes in OWN.items()}


def small(family, **changes):
    return tiny.tokenizer(**{"family": family, **OWN.get(family, {}), **changes})


def images(batch=2, side=8):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_public_name_has_the_parameters_of_its_official_class():
    assert NAMED.keys() == TOTALS.keys()
    assert {config.family for config in NAMED.values()} == FAMILIES.keys() - {"patches"}  # our own
    for name, total in TOTALS.items():
        with torch.device("meta"):
            tokenizer = build_tokenizer(name)
        assert sum(p.numel() for p in tokenizer.parameters()) == total, name
        assert tokenizer.stride == (8 if name.endswith(("f8", "vq8")) else 16)
        assert tokenizer.name == name


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("magvit2-f16", MAGVIT2["f16"]), ("magvit2-f8", MAGVIT2["f8"]), ("maskgit-vq", MASKGIT)],
)
def test_the_names_of_the_whole_are_the_official_ones(name, shapes):
    with torch.device("meta"):
        tokenizer = build_tokenizer(TokenizerConfig(name=name))
    assert {key: list(t.shape) for key, t in tokenizer.state_dict().items()} == shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_protocol(family, tmp_path):
    tokenizer, pictures = small(family), images()
    with torch.no_grad():
        latents = tokenizer.latents(pictures)
        codes, tokens, losses = tokenizer.quantise(latents)
        reconstruction, same_tokens, _ = tokenizer(pictures)
        decoded = tokenizer.decode(tokens, clamp=False)
    assert tokens.shape == (2, 4, 4)
    assert torch.equal(tokenizer.encode(pictures), tokens)
    assert torch.equal(same_tokens, tokens)
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.codebook_size
    torch.testing.assert_close(codes, tokenizer.lookup(tokens), rtol=0, atol=1e-6)
    torch.testing.assert_close(reconstruction, decoded, rtol=1e-4, atol=1e-4)
    assert all(loss.isfinite() for loss in losses.values())
    save_weights(tmp_path / "weights", tokenizer)
    loaded = load_tokenizer(tmp_path / "weights")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert torch.equal(loaded.encode(pictures), tokens)


def test_maskgit_sees_and_draws_pixels_between_0_and_1():
    """Its official class reproduced: tokens and unclamped pixels, which there lie about [0, 1]."""
    golden = load_file(FIXTURES / "maskgit_tiny.safetensors")
    config = TokenizerConfig(
        family="maskgit", width=32, multipliers=(1, 2), res_blocks=1, attention_levels=(),
        latent_width=8, codebook_size=64, code_width=8, l2_norm=False,
    )  # fmt: skip
    tokenizer = build_tokenizer(config).eval()
    shapes = {name: tuple(t.shape) for name, t in tokenizer.state_dict().items()}
    tokenizer.load_state_dict(filler.tokenizer_weights(shapes))
    unit = golden["input"] if golden["input"].min() >= 0 else (golden["input"] + 1) / 2
    with torch.no_grad():
        tokens = tokenizer.encode(2 * unit - 1)
        pixels = tokenizer.decode(tokens, clamp=False)
    assert torch.equal(tokens, golden["indices"].long())
    torch.testing.assert_close((pixels + 1) / 2, golden["decoded"], rtol=0, atol=2e-5)


def test_a_run_takes_a_public_tokenizer_by_name(tmp_path, monkeypatch):
    architecture = small("llamagen").config
    monkeypatch.setitem(NAMED, "llamagen-vq16", architecture)
    tokenizer = build_tokenizer("llamagen-vq16")
    save_file(tokenizer.state_dict(), tmp_path / "vq.safetensors")
    words = {"name": "llamagen-vq16", "weights": str(tmp_path / "vq.safetensors")}
    opened = open_tokenizer(TokenizerConfig(**words))
    assert (opened.fingerprint, opened.name) == (tokenizer.fingerprint, "llamagen-vq16")
    assert not opened.training


def test_latents_without_a_convolution_behind_them_are_codes():
    with pytest.raises(UserError) as error:
        small("maskgit", latent_width=8)
    assert str(error.value) == (
        "tokenizer.latent_width=8 must equal tokenizer.code_width=4: nothing stands between them "
        "in the family maskgit."
    )


def test_a_grid_of_one_token_is_refused_where_it_has_no_deviation():
    """Open-MAGVIT2's decoder makes NaN of it; two tokens, side by side, are enough."""
    tokenizer = small("magvit2")
    assert (tokenizer.stride, tokenizer.smallest_side) == (2, 4)
    sentence = (
        "The decoder of magvit2-f2 needs 2 tokens an image, not 1x1; use images of 4 pixels or "
        "more along a side."
    )
    one = images(side=2)
    for draw in (lambda: tokenizer.decode(tokenizer.encode(one)), lambda: tokenizer(one)):
        with pytest.raises(UserError) as error:
            draw()
        assert str(error.value) == sentence
    assert tokenizer.decode(torch.zeros(1, 1, 2, dtype=torch.int64)).isfinite().all()
    for family in FAMILIES.keys() - {"magvit2"}:
        other = small(family)
        assert other.smallest_side == other.stride
        assert other(one)[0].isfinite().all()
