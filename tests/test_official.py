"""Files of the public tokenizers. Names, shapes and numbers: their authors' classes
(`fixtures/network/NOTES.md`)."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.network import filler
from safetensors.torch import load_file, save_file

from MaskGIL.weights import save_weights
from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError
from Network.files import load_strict
from Network.tokenizer.official import MARKS, official_names, official_state, our_names
from Network.tokenizer.vq import VQTokenizer

STORED = Path(__file__).parent / "fixtures/network"
INPUT = load_file(STORED / "taming_tiny.safetensors")["input"]  # the same for all
_TINY = TokenizerConfig(
    width=32, multipliers=(1, 2), res_blocks=1, attention_levels=(1,), latent_width=8,
    codebook_size=64, code_width=8, l2_norm=False, codebook_weight=0.25, commitment_weight=1.0,
)  # fmt: skip
TINY = {
    "taming": _TINY,
    "chameleon": replace(_TINY, attention_levels=()),
    "llamagen": replace(_TINY, l2_norm=True, codebook_weight=1.0, commitment_weight=0.25),
}
DIGESTS = {
    "taming": "dcf2d9301c149c15f7659e268b0408fdb31c018f4bc8df0ad12dd8751a5f85a4",
    "chameleon": "a8cbcfec40e007aee30dbd843c0881de96582996a969d21f8ab8af1e1738653e",
    "llamagen": "057f68ab8c9b9422318fd07d6e0393e235e8bf6f37841518248780dee0651b0f",
}
LOSSES = {"taming": 0.46001002192497253, "chameleon": 0.4916096329689026}  # whole, beta 0.25
FRAGILE = {"llamagen": [439]}  # nearer to a second code than ten times the rounding
PUBLIC = {
    "llamagen_vq16": TokenizerConfig(),
    "llamagen_vq8": TokenizerConfig(multipliers=(1, 2, 2, 4), attention_levels=(3,)),
    "chameleon": TokenizerConfig(
        attention_levels=(), codebook_size=8192, code_width=256, l2_norm=False
    ),
}
PARAMETERS = {"llamagen_vq16": 71_883_403, "llamagen_vq8": 70_109_835, "chameleon": 68_718_467}
ANY = {"a.weight": torch.zeros(1)}


def shapes(name):
    return json.loads((STORED / f"{name}_shapes.json").read_text("utf-8"))


def official_weights(family):
    """The stored tokenizer's weights under its authors' names."""
    with torch.device("meta"):
        state = VQTokenizer(TINY[family]).state_dict()
    names = official_names(state, family)
    weights = filler.tokenizer_weights({names[n]: tuple(t.shape) for n, t in state.items()})
    assert filler.digest(weights) == DIGESTS[family]
    return weights


def noise(weights):
    return {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}


def lightning(weights):
    loss = {"loss.discriminator.main.0.weight": torch.zeros(1), "loss.logvar": torch.zeros(())}
    return {"state_dict": weights | loss, "epoch": 1, "callbacks": {Namespace: {"a": 1}}}


def llamagen(weights):
    used = {"quantize.codebook_used": torch.zeros(65536)}
    beside = {"optimizer": {"state": {}}, "discriminator": ANY, "args": Namespace(lr=1e-4)}
    return {"model": weights | used, **beside}


FORMS = {
    "flat.bin": lambda weights: weights,
    "lightning.ckpt": lightning,
    "model.pt": llamagen,
    "ema.th": lambda weights: llamagen(noise(weights)) | {"ema": weights},
    "both.pth": lambda weights: {"state_dict": noise(weights), "model": weights},
    "wrapped.pt": lambda weights: {"model": {f"module._orig_mod.{n}": weights[n] for n in weights}},
}


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_every_form(tmp_path, family, form):
    weights = official_weights(family)
    torch.save(FORMS[form](weights), tmp_path / form)
    found, names = official_state(tmp_path / form, family), our_names(weights, family)
    assert found.keys() == set(names.values())
    assert all(torch.equal(found[names[name]], weights[name]) for name in weights)


@pytest.fixture(scope="module", params=TINY)
def loaded(request, tmp_path_factory):
    """A family, its stored values, and our tokenizer with the weights of an official file."""
    family, path = request.param, tmp_path_factory.mktemp("official") / "a.ckpt"
    torch.save(lightning(official_weights(family)), path)
    tokenizer = VQTokenizer(TINY[family])
    load_strict(tokenizer, official_state(path, family), path)
    return family, load_file(STORED / f"{family}_tiny.safetensors"), tokenizer.eval()


def test_the_authors_tokens(loaded):
    family, golden, tokenizer = loaded
    with torch.no_grad():
        latents, tokens = tokenizer.latents(INPUT), tokenizer.encode(INPUT)
    torch.testing.assert_close(latents, golden["z"], rtol=0, atol=2e-5)
    differing = (tokens != golden["indices"].long()).flatten().nonzero().flatten().tolist()
    assert set(differing) <= set(FRAGILE.get(family, []))


def test_the_authors_pixels(loaded):
    _, golden, tokenizer = loaded
    grid = (torch.arange(2 * 16 * 16) * 7919 % 64).view(2, 16, 16)
    with torch.no_grad():
        decoded = tokenizer.decode(golden["indices"].long(), clamp=False)
        every_code = tokenizer.decode(grid, clamp=False)
    torch.testing.assert_close(decoded, golden["decoded"], rtol=0, atol=2e-5)
    torch.testing.assert_close(every_code, golden["grid_decoded"], rtol=0, atol=2e-5)


def test_a_gradient_reaches_every_parameter(loaded):
    _, _, tokenizer = loaded
    tokenizer.zero_grad()
    reconstruction, _, losses = tokenizer(INPUT)
    ((reconstruction - INPUT).square().mean() + sum(losses.values())).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_authors_loss(loaded):
    """Values and gradients of goldens' tiny.json; LlamaGen's with a tenth of the entropy term."""
    family, golden, tokenizer = loaded
    z = golden["z"].clone().requires_grad_()
    tokenizer.zero_grad()
    assert tokenizer.quantise(z)[2].keys() == {"codebook", "commitment"}  # no entropy unless asked
    tokenizer.quantize.entropy_weight = 0.1 * (family == "llamagen")
    losses = tokenizer.quantise(z)[2]
    if family == "llamagen":
        assert losses["codebook"].item() == pytest.approx(0.06293969601392746, abs=1e-5)
        assert losses["commitment"].item() == pytest.approx(0.015734924003481865, abs=1e-5)
        assert losses["entropy"].item() == pytest.approx(-0.33673492074012756, abs=1e-5)
    else:
        assert sum(losses.values()).item() == pytest.approx(LOSSES[family], abs=1e-5)
    sum(losses.values()).backward()
    torch.testing.assert_close(z.grad, golden["grad_z"], rtol=0, atol=1e-5)
    gradient = tokenizer.quantize.embedding.weight.grad
    torch.testing.assert_close(gradient, golden["grad_codebook"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLIC)
def test_names_and_shapes_of_the_public_models(name):
    family = name.partition("_")[0]
    with torch.device("meta"):
        tokenizer = VQTokenizer(PUBLIC[name])
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == PARAMETERS[name]
    ours = {key: list(tensor.shape) for key, tensor in tokenizer.state_dict().items()}
    theirs = shapes(name)
    theirs.pop("quantize.codebook_used", None)
    there, back = our_names(theirs, family), official_names(ours, family)
    assert {there[key]: shape for key, shape in theirs.items()} == ours
    assert {back[key]: shape for key, shape in ours.items()} == theirs
    assert all(back[there[key]] == key for key in theirs)


def test_llamagen_counts_the_decoders_levels_from_below():
    names = our_names(shapes("llamagen_vq16"), "llamagen")
    assert names["decoder.conv_blocks.0.res.2.conv1.bias"] == "decoder.up.4.block.2.conv1.bias"
    assert names["decoder.conv_blocks.4.res.0.norm1.bias"] == "decoder.up.0.block.0.norm1.bias"
    assert names["encoder.conv_blocks.4.attn.1.q.bias"] == "encoder.down.4.attn.1.q.bias"
    assert names["encoder.mid.1.norm.weight"] == "encoder.mid.attn_1.norm.weight"


def empty(names, fill=0.0):
    return {name: torch.full((1,), fill) for name in names}


OTHERS = {
    "maskgit": lambda: shapes("maskgit_vq"),
    "magvit2": lambda: shapes("magvit2")["f16"],
    "taming": lambda: shapes("taming_f16_1024"),
    "llamagen": lambda: shapes("llamagen_vq8"),
}


@pytest.mark.parametrize("family", ["maskgit", "magvit2"])
def test_the_other_families_keep_their_names(tmp_path, family):
    names = OTHERS[family]()
    torch.save({"state_dict": empty(names) | ANY}, tmp_path / "a.ckpt")
    assert official_state(tmp_path / "a.ckpt", family).keys() == set(names)


@pytest.mark.parametrize("complete", [True, False])
def test_moving_averages_are_taken_together_or_not_at_all(tmp_path, complete):
    """SEED-Voken b9a17eac, `LitEma`: three of its names are written out here."""
    names = OTHERS["magvit2"]()
    averages = [f"model_ema.{name.replace('.', '')}" for name in names]
    assert len(set(averages)) == len(names)
    assert "model_ema.encoderdown0block0norm1weight" in averages
    assert "model_ema.encoderconv_inweight" in averages
    assert "model_ema.decoderconv_outbias" in averages
    extra = empty(["model_ema.decay", "model_ema.num_updates", "loss.a", "model_ema.lossa"])
    state = empty(names) | empty(averages if complete else averages[1:], 1.0) | extra
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    found = official_state(tmp_path / "a.ckpt", "magvit2")
    assert found.keys() == set(names)
    assert {tensor.item() for tensor in found.values()} == {float(complete)}


@pytest.mark.parametrize("held", OTHERS)
@pytest.mark.parametrize("family", [*MARKS, "chameleon"])
def test_a_file_of_another_family_is_told(tmp_path, held, family):
    path = tmp_path / "a.safetensors"
    save_file(empty(OTHERS[held]()), path)
    if held == family or (held == "taming" and family in ("chameleon", "llamagen")):
        assert official_state(path, family)  # LlamaGen's as we write them have taming's names
        return
    with pytest.raises(UserError) as error:
        official_state(path, family)
    assert str(error.value) == (
        f"{path} looks like a tokenizer of the family {held}, not {family}; "
        f"build one of {held}, or give another file."
    )


@pytest.mark.parametrize("middle", ["attention", "none"])
def test_our_own_weights_are_read_as_they_are(tmp_path, middle):
    config = replace(TINY["llamagen"], encoder_middle=middle, decoder_middle=middle)
    state = VQTokenizer(config).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    found = official_state(tmp_path / "a.safetensors", "llamagen")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "contents",
    [ANY, {"state_dict": ANY}, {"state_dict": Namespace(a=1)}, {0: torch.zeros(1)}, {}],
)
def test_a_file_without_a_tokenizer(tmp_path, contents):
    path = tmp_path / "a.pt"
    torch.save(contents, path)
    with pytest.raises(UserError) as error:
        official_state(path, "taming")
    assert str(error.value) == (
        f"{path} holds no tokenizer (nothing named encoder.* or decoder.*); give another file."
    )


def test_a_weights_folder_of_ours_is_read_too(tmp_path):
    tokenizer = VQTokenizer(TINY["taming"])
    save_weights(tmp_path / "weights", tokenizer)
    found = build_tokenizer(TINY["taming"], tmp_path / "weights")
    assert found.fingerprint == tokenizer.fingerprint
