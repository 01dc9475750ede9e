"""The public tokenizers at their full size: tokens and pixels of a plain formulation.

`official_arithmetic.py` is that formulation; the weights are a rule (`fixtures/network/filler.py`),
their names and shapes those of the official classes (`fixtures/network/NOTES.md`). At a tiny size
the formulation is compared with stored values of these classes first.
"""

import json
from dataclasses import replace
from pathlib import Path

import official_arithmetic
import pytest
import torch
from fixtures.network import filler
from safetensors.torch import load_file, save_file

from Network import build_tokenizer
from Network.config import TokenizerConfig
from Network.tokenizer import NAMED
from Network.tokenizer.official import official_names

FIXTURES = Path(__file__).parent / "fixtures/network"
INPUT = load_file(FIXTURES / "taming_tiny.safetensors")["input"]  # the same for all
FILES = {
    "llamagen-vq16": "llamagen_vq16",
    "llamagen-vq8": "llamagen_vq8",
    "taming-f16-1024": "taming_f16_1024",
    "taming-f16-16384": "taming_f16_1024",  # but for the codebook
    "maskgit-vq": "maskgit_vq",
    "chameleon-vq": "chameleon",
    "magvit2-f16": "magvit2",
    "magvit2-f8": "magvit2",
}


TINY = TokenizerConfig(
    width=32, multipliers=(1, 2), res_blocks=1, attention_levels=(), latent_width=8,
    codebook_size=64, code_width=8, l2_norm=False,
)  # fmt: skip
CHANGES = {
    "taming": {"attention_levels": (1,)},
    "llamagen": {"attention_levels": (1,), "l2_norm": True},
    "magvit2": {"latent_width": 6, "code_width": 6},
}


def official_shapes(name):
    shapes = json.loads((FIXTURES / f"{FILES[name]}_shapes.json").read_text("utf-8"))
    shapes = shapes.get(name.rpartition("-")[2], shapes)  # Open-MAGVIT2's two are in one file
    shapes.pop("quantize.codebook_used", None)
    if name == "taming-f16-16384":
        shapes["quantize.embedding.weight"] = [16384, 256]
    return shapes


def test_every_public_tokenizer_is_compared():
    assert FILES.keys() == NAMED.keys()


@pytest.mark.parametrize("family", dict.fromkeys(each.family for each in NAMED.values()))
@torch.no_grad()
def test_the_plain_formulation_is_that_of_the_authors(family):
    """Tokens and unclamped pixels; LlamaGen's token 439 lies between two codes."""
    golden = load_file(FIXTURES / f"{family}_tiny.safetensors")
    with torch.device("meta"):
        config = replace(TINY, family=family, **CHANGES.get(family, {}))
        state = build_tokenizer(config).state_dict()
    names = official_names(state, family)
    weights = filler.tokenizer_weights({names[n]: tuple(t.shape) for n, t in state.items()})
    tokens = official_arithmetic.encode(weights, family, INPUT)
    differing = (tokens != golden["indices"].long()).flatten().nonzero()[:, 0].tolist()
    assert set(differing) <= ({439} if family == "llamagen" else set())
    grid = (torch.arange(2 * 16 * 16) * 7919 % 64).view(2, 16, 16)
    for name, each in (("decoded", golden["indices"].long()), ("grid_decoded", grid)):
        pixels = official_arithmetic.decode(weights, family, each)
        pixels = (pixels + 1) / 2 if family == "maskgit" else pixels  # stored in [0, 1]
        torch.testing.assert_close(pixels, golden[name], rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_tokens_and_pixels_of_a_plain_formulation(name, tmp_path):
    """The tolerance is that of float32: 2.6e-5 were measured between it and float64."""
    family, weights = NAMED[name].family, filler.tokenizer_weights(official_shapes(name))
    save_file(weights, tmp_path / "official.safetensors")
    tokenizer = build_tokenizer(name, tmp_path / "official.safetensors").eval()
    (tmp_path / "official.safetensors").unlink()  # half a gigabyte
    image = (0.4 * filler.normals("image", (1, 3, 64, 64))).clamp(-1, 1)
    tokens = tokenizer.encode(image)
    assert torch.equal(tokens, official_arithmetic.encode(weights, family, image))
    assert len(tokens.unique()) > 1
    grid = torch.arange(tokens.numel()).view_as(tokens) * 7919 % tokenizer.codebook_size
    for each in (tokens, grid):
        found = tokenizer.decode(each, clamp=False)
        expected = official_arithmetic.decode(weights, family, each)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
