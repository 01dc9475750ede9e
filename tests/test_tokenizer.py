"""The tokenizer protocol and its builder. Names and shapes of the public models: their official
classes (`fixtures/network/NOTES.md`)."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError
from Network.tokenizer import NAMED

SHAPES = json.loads(
    (Path(__file__).parent / "fixtures/network/taming_f16_1024_shapes.json").read_text()
)


def images(batch=3, height=16, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, 3, height, width), generator=generator) * 2 - 1


@pytest.mark.parametrize(
    ("name", "codes"), [("taming-f16-1024", 1024), ("taming-f16-16384", 16384)]
)
def test_public_models_by_name(name, codes):
    with torch.device("meta"):
        tokenizer = build_tokenizer(name)
    found = {key: list(tensor.shape) for key, tensor in tokenizer.state_dict().items()}
    assert found == SHAPES | {"quantize.embedding.weight": [codes, 256]}
    assert (tokenizer.name, tokenizer.codebook_size, tokenizer.stride) == (name, codes, 16)


def test_the_published_loss_weighs_the_codebook_term():
    """taming-transformers' default `legacy=True`, beta 0.25 (modules/vqvae/quantize.py)."""
    for config in (NAMED[name] for name in NAMED if name.startswith(("taming", "maskgit"))):
        assert (config.codebook_weight, config.commitment_weight) == (0.25, 1.0)
        assert not config.l2_norm


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2, 2)])
def test_a_token_covers_a_square_of_pixels(multipliers):
    tokenizer = tiny.tokenizer(multipliers=multipliers, attention_levels=())
    stride = 2 ** (len(multipliers) - 1)
    assert tokenizer.stride == stride
    assert tokenizer.name == f"taming-f{stride}"
    tokens = tokenizer.encode(images())
    assert (tokens.shape, tokens.dtype) == ((3, 16 // stride, 24 // stride), torch.int64)
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.codebook_size
    assert tokenizer.decode(tokens).shape == (3, 3, 16, 24)


def test_the_parts_make_the_whole():
    tokenizer, pictures = tiny.tokenizer(), images()
    with torch.no_grad():
        latents = tokenizer.latents(pictures)
        codes, tokens, losses = tokenizer.quantise(latents)
        reconstruction, same_tokens, same_losses = tokenizer(pictures)
        assert torch.equal(tokenizer.encode(pictures), tokens)
        assert torch.equal(same_tokens, tokens)
        assert same_losses == losses
        assert set(losses) == {"codebook", "commitment"}
        # The straight-through sum z + (code - z) rounds; a looked-up code does not
        torch.testing.assert_close(codes, tokenizer.lookup(tokens), rtol=0, atol=1e-6)
        decoded = tokenizer.decode(tokens, clamp=False)
        torch.testing.assert_close(reconstruction, decoded, rtol=0, atol=1e-4)
        assert decoded.abs().max() > 1  # so that clamping is seen
        assert torch.equal(tokenizer.decode(tokens), decoded.clamp(-1, 1))


def test_tokens_are_row_major():
    """A picture that changes in one corner changes tokens there only: no attention, no bias."""
    tokenizer = tiny.tokenizer(attention_levels=(), encoder_middle="none", codebook_size=512)
    tokenizer.double()
    pictures = images(1, 32, 64).double()
    other = pictures.clone()
    other[:, :, :4, -4:] *= -1  # above, right
    for norm in (m for m in tokenizer.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # it would carry the change everywhere
    moved = (tokenizer.latents(pictures) - tokenizer.latents(other)).abs().amax(1)[0] > 0
    rows, columns = moved.nonzero().T
    assert moved.shape == (16, 32)
    assert moved[0, -1]
    assert rows.max() < 14
    assert columns.min() > 18


@pytest.mark.parametrize("shape", [(15, 16), (16, 18), (2, 2)])
def test_a_picture_that_the_stride_does_not_divide(shape):
    tokenizer = tiny.tokenizer(multipliers=(1, 1, 1))
    with pytest.raises(
        ValueError, match=rf"^Images of {shape[0]}x{shape[1]} are not divisible by 4"
    ):
        tokenizer.encode(images(1, *shape))


def test_the_batch_does_not_matter():
    tokenizer, pictures = tiny.tokenizer().double(), images(5).double()
    with torch.no_grad():
        together = tokenizer.latents(pictures)
        alone = torch.cat([tokenizer.latents(picture[None]) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_every_weight_changes_the_fingerprint():
    tokenizer = tiny.tokenizer()
    first = tokenizer.fingerprint
    assert len(first) == 64
    assert tiny.tokenizer().fingerprint == first
    for name, tensor in tokenizer.state_dict().items():
        value = tensor.view(-1)[-1].item()
        tensor.view(-1)[-1] += 1e-3
        assert tokenizer.fingerprint != first, name
        tensor.view(-1)[-1] = value
    assert tokenizer.fingerprint == first


def test_weights_are_loaded_strictly(tmp_path):
    path, tokenizer = tmp_path / "tokenizer.safetensors", tiny.tokenizer()
    save_file(tokenizer.state_dict(), path)
    loaded = build_tokenizer(tiny.tokenizer_config(), path)
    assert loaded.fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match=r"quantize.embedding.weight is 11x4, not 12x4\.$"):
        build_tokenizer(tiny.tokenizer_config(codebook_size=12), path)
    with pytest.raises(UserError, match=r"^No such weights file: .*nowhere.safetensors"):
        build_tokenizer(tiny.tokenizer_config(), tmp_path / "nowhere.safetensors")


def test_unknown_name():
    with pytest.raises(UserError, match=r"^Unknown tokenizer 'vqgan'. Known: llamagen-vq16, llama"):
        build_tokenizer("vqgan")
    with pytest.raises(UserError, match=r"^Unknown tokenizer 'taming-16'. Did you mean 'taming-f"):
        build_tokenizer(TokenizerConfig(name="taming-16"))


@pytest.mark.parametrize("family", ["taming", "magvit2"])
@pytest.mark.parametrize("token", [-1, 16])
def test_tokens_outside_the_codebook_are_refused(family, token):
    """Signs would wrap around, and a GPU would end the process."""
    changes = {"attention_levels": (), "codebook_size": 16}
    if family == "magvit2":
        changes |= {"latent_width": 4, "code_width": 4}
    tokenizer = tiny.tokenizer(family=family, **changes)
    tokens = torch.full((1, 2, 2), 15)
    tokenizer.decode(tokens)
    tokens[0, 1, 1] = token
    with pytest.raises(UserError) as error:
        tokenizer.decode(tokens)
    least, most = min(token, 15), max(token, 15)
    assert str(error.value) == (
        f"Tokens reach from {least} to {most}, but {tokenizer.name} knows 0 to 15; they belong to "
        "another tokenizer, or are still masked."
    )


def test_bits_of_a_token():
    bits = {"latent_width": 4, "code_width": 4, "codebook_size": 16, "attention_levels": ()}
    assert tiny.tokenizer(family="magvit2", **bits).num_bits == 4
    assert tiny.tokenizer().num_bits == 0
