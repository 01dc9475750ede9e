"""The recipes of the public tokenizers: their architecture, and that each of their terms teaches.

Shrunk to 32x32 pixels and a few channels; LPIPS has a VGG-16 that is made up.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import tiny
import torch
from test_configs import load
from tiny_runs import CONFIGS, tree
from tiny_weights import save_made_up_vgg

from MaskGIL.config import load_config
from Network.config import UserError
from Network.tokenizer import NAMED
from Trainer.config import RunConfig
from Trainer.dry_run import dry_run
from Trainer.vqgan import TokenizerTrainer

FILES = {file.stem: file for file in sorted((CONFIGS / "tokenizers").glob("*.yaml"))}
ADAPTIVE = [name for name, file in FILES.items() if load(file).adversary.adaptive]
TERMS = (  # keys that a term of the loss is multiplied by
    *("reconstruction.l1", "reconstruction.l2", "reconstruction.perceptual"),
    *("tokenizer.codebook_weight", "tokenizer.commitment_weight", "tokenizer.entropy_weight"),
    *("adversary.weight", "adversary.lecam"),
)
DISCRIMINATOR_ALONE, TOKENIZER_ALONE = TERMS[-1], TERMS[:-2]
SHRUNK = (
    *("data.source=shapes", "data.image_size=32", "data.num_images=16", "data.workers=0"),
    *("tokenizer.width=8", "tokenizer.groups=4", "tokenizer.res_blocks=1"),
    *("tokenizer.latent_width=6", "tokenizer.code_width=6", "tokenizer.codebook_size=64"),
    *("adversary.start=0", "adversary.width=4", "adversary.depth=2", "optim.batch=2"),
    *("loop.tracker=none", "device=cpu", "precision=fp32"),
)
IMAGENET = 1_281_167  # training images
# Of their authors' configurations (commits in the files); the VQGAN's is not published
EPOCHS = {"llamagen-vq16": 40, "llamagen-vq8": 40, "magvit2-f16": 270, "magvit2-f8": 350}
COLUMNS = (
    *("reconstruction.l1", "reconstruction.l2", "reconstruction.perceptual"),
    *("tokenizer.codebook_weight", "tokenizer.commitment_weight", "tokenizer.entropy_weight"),
    *("adversary.weight", "adversary.adaptive", "adversary.start", "adversary.lecam"),
    *("adversary.tokenizer_loss", "adversary.discriminator_loss", "adversary.depth"),
    *("optim.batch", "optim.lr", "optim.beta1", "optim.beta2", "optim.clip", "optim.ema"),
)
NON_SATURATING = "non-saturating"
_VQGAN = (*(1, 0, 1), *(0.25, 1, 0), *(0.8, True, 250_001, 0), *("hinge", "hinge", 3),
          *(96, 4.5e-6 * 96, 0.5, 0.9, 0, 0))  # fmt: skip
# What their authors' code and configurations say at these commits, in the order of COLUMNS;
# what they do not say is ours: the VQGAN's batch, of MaskGIT's pixel error, start, depth and clip
NUMBERS = {
    # CompVis/taming-transformers 3ba01b24: configs/imagenet_vqgan.yaml, vqperceptual.py; its beta
    # of 0.25 stands on the codebook's term; 4.5e-6 x batch in main.py; no clipping, no average
    "taming-f16-1024": _VQGAN,
    # The same, with the discriminator of the configuration released with the weights
    "taming-f16-16384": (*_VQGAN[:6], *(0.75, True, 0, 0), *("hinge", "hinge", 2), *_VQGAN[13:]),
    # facebookresearch/chameleon dbbe47fd publishes no training: the VQGAN's
    "chameleon-vq": _VQGAN,
    # FoundationVision/LlamaGen ce98ec41: tokenizer_image/vq_train.py, vq_loss.py and vq_model.py
    "llamagen-vq16": (*(0, 1, 1), *(1, 0.25, 0), *(0.5, False, 20_000, 0), *("hinge", "hinge", 3),
                      *(128, 1e-4, 0.9, 0.95, 1, 0.9999)),
    # google-research/maskgit: its configuration and losses. Pixels lie there in [0, 1] and here in
    # [-1, 1], so a squared error of weight 1 is a quarter
    "maskgit-vq": (*(0, 0.25, 0.1), *(1, 0.25, 0.1), *(0.1, False, 0, 0),
                   *(NON_SATURATING, NON_SATURATING, 3), *(256, 1e-4, 0, 0.99, 0, 0.999)),
    # TencentARC/SEED-Voken b9a17eac: imagenet_lfqgan_256_L.yaml and 128_L, 32 GPUs x 8 images; a
    # codebook of signs has no term of its own, so the default stays
    "magvit2-f16": (*(1, 0, 1), *(1, 0.25, 0.1), *(0.1, False, 0, 0.05),
                    *(NON_SATURATING, "hinge", 3), *(32 * 8, 1e-4, 0.5, 0.9, 0, 0.999)),
}  # fmt: skip
NUMBERS["llamagen-vq8"] = NUMBERS["llamagen-vq16"]
NUMBERS["magvit2-f8"] = (*NUMBERS["magvit2-f16"][:9], 0.01, *NUMBERS["magvit2-f16"][10:])
by_name = pytest.mark.parametrize("name", FILES)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    return save_made_up_vgg(tmp_path_factory.mktemp("vgg") / "vgg.pth")


@pytest.fixture(scope="module", params=FILES)
def trainer(request, vgg, tmp_path_factory):
    """With weights that hide nothing. No loss is scaled by another: see ADAPTIVE for those."""
    words = [f"reconstruction.vgg={vgg}", "adversary.adaptive=false"]
    trainer = TokenizerTrainer(shrunk(request.param, tmp_path_factory.mktemp("run"), *words))
    trainer.prepare()
    tiny.fill(trainer.module)
    return trainer


def shrunk(name, folder, *changes):
    words = [*SHRUNK, "loop.accumulation=1", f"out_dir={folder / 'run'}", *changes]
    return load_config(RunConfig, FILES[name], words)


@contextmanager
def changed(trainer, **changes):
    """Keys (with _ for the dot) at other values in the losses of a trainer that stands already."""
    config, quantiser = trainer.config, trainer.tokenizer.quantize
    before = vars(quantiser).copy()
    for name, value in changes.items():
        section, key = name.split("_", 1)
        part = replace(getattr(trainer.config, section), **{key: value})
        trainer.config = replace(trainer.config, **{section: part})
        if section == "tokenizer":
            setattr(quantiser, key, value)
    try:
        yield
    finally:
        trainer.config = config
        vars(quantiser).update(before)


def gradients(trainer, **changes):
    """Those of the tokenizer and of the discriminator, each in a row, and what is logged."""
    trainer.module.train().zero_grad(set_to_none=True)
    with changed(trainer, **changes):
        loss, metrics = trainer.loss(trainer.objective(), trainer.dataset()[0])
    loss.backward()
    rows = [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in trainer.learners()]
    return *rows, metrics


def terms(trainer):
    """The keys of TERMS that a recipe has a weight for; signs have no codebook that could move."""
    places = {"tokenizer": trainer.tokenizer.quantize}
    for key in TERMS:
        section, name = key.split(".")
        if getattr(places.get(section, getattr(trainer.config, section)), name, 0):
            yield key


# What the files say


def test_every_public_tokenizer_has_a_recipe():
    assert FILES.keys() == NAMED.keys()


@by_name
def test_its_architecture_is_that_of_its_name(name):
    found, public = load(FILES[name]).tokenizer, NAMED[name]
    weights = [key.split(".")[1] for key in TERMS if key.startswith("tokenizer.")]
    assert replace(found, **{key: getattr(public, key) for key in weights}) == public


@by_name
def test_it_is_never_in_fp16_and_has_the_epochs_of_its_source(name):
    run = load(FILES[name])
    assert run.precision == "auto"  # which for a tokenizer is bf16 or fp32
    if name in EPOCHS:
        assert run.loop.steps == pytest.approx(EPOCHS[name] * IMAGENET / run.optim.batch, abs=1)
    if run.adversary.adaptive:  # the VQGAN's rule
        assert run.optim.lr == pytest.approx(4.5e-6 * run.optim.batch)


@by_name
def test_its_numbers_are_those_of_its_source(name):
    run = load(FILES[name])
    found = {key: getattr(getattr(run, key.split(".")[0]), key.split(".")[1]) for key in COLUMNS}
    assert found == pytest.approx(dict(zip(COLUMNS, NUMBERS[name], strict=True)))
    assert (run.optim.weight_decay, run.optim.warmup) == (0, 1)  # Adam, and no warm-up, in all
    # Steps of x0.1 at two epochs are a cosine to their end; the others are constant
    assert run.optim.final_lr == (0.01 if name.startswith("magvit2") else 1.0)
    assert run.adversary.width == 64
    assert run.reconstruction.revive_every == 0


# What they teach


def test_each_term_teaches_and_together_they_are_the_loss(trainer):
    *wholes, _ = gradients(trainer)
    sums = [torch.zeros_like(whole) for whole in wholes]
    for key in terms(trainer):
        *others, _ = gradients(trainer, **{key.replace(".", "_", 1): 0.0})
        shares = [whole - other for whole, other in zip(wholes, others)]
        of_both = [(share.norm() / whole.norm()).item() for share, whole in zip(shares, wholes)]
        assert (of_both[0] > 3e-5) == (key != DISCRIMINATOR_ALONE), key  # rounding is 1e-6
        assert (of_both[1] > 3e-5) == (key not in TOKENIZER_ALONE), key
        sums[0] += shares[0]
        if key != DISCRIMINATOR_ALONE:  # it goes with the contest, and is counted there
            sums[1] += shares[1]
    for total, whole in zip(sums, wholes):
        assert (total - whole).norm() < 1e-5 * whole.norm()


def test_every_kernel_of_both_networks_learns_and_none_of_vgg(trainer):
    gradients(trainer)
    for network in (trainer.tokenizer.encoder, trainer.tokenizer.decoder, *trainer.learners()):
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.dim() < 2 or parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in trainer.perceptual.parameters())


def test_before_its_start_there_is_no_contest(trainer):
    tokenizer, discriminator, metrics = gradients(trainer, adversary_start=1)
    assert not discriminator.any()
    assert torch.equal(tokenizer, gradients(trainer, adversary_weight=0.0)[0])
    assert not metrics.keys() & {"adversarial", "discriminator", "lecam"}
    trainer.step = 1
    try:
        late = gradients(trainer, adversary_start=1)
    finally:
        trainer.step = 0
    assert late[1].any()
    assert late[2].keys() >= {"adversarial", "discriminator"}


@pytest.mark.parametrize("trainer", ADAPTIVE, indirect=True)
def test_an_adaptive_weight_balances_the_last_kernel(trainer):
    """Esser et al., 2021, eq. 7; the terms of the quantiser do not reach the decoder."""
    kernel = trainer.tokenizer.decoder.conv_out.weight
    without, *_ = gradients(trainer, adversary_weight=0.0)
    of_seen = kernel.grad
    plain, *_ = gradients(trainer)
    of_fooled = (kernel.grad - of_seen) / trainer.config.adversary.weight
    scaled, _, metrics = gradients(trainer, adversary_adaptive=True)
    factor = metrics["adaptive"]
    assert factor.item() == pytest.approx((of_seen.norm() / of_fooled.norm()).item(), rel=1e-2)
    expected = without + factor * (plain - without)
    assert (scaled - expected).norm() < 1e-5 * expected.norm()


# Before a run


def test_a_step_is_fitted_with_the_terms_of_the_last_one(vgg, tmp_path, monkeypatch):
    words = ["loop.accumulation=0", "loop.steps=2", "adversary.start=1"]
    words += ["loop.sample_every=0", "loop.validate_every=0", f"reconstruction.vgg={vgg}"]
    found, loss = [], TokenizerTrainer.loss

    def spy(self, objective, batch):
        result = loss(self, objective, batch)
        found.append((len(batch["images"]), "discriminator" in result[1]))
        return result

    monkeypatch.setattr(TokenizerTrainer, "loss", spy)
    TokenizerTrainer(shrunk("llamagen-vq16", tmp_path, *words)).fit()
    *tried, first, second = found
    assert tried == [(1, True), (2, True), (2, True)]  # counted with one and two, then made
    assert (first, second) == ((2, False), (2, True))


@by_name
def test_a_dry_run_names_the_weights_that_it_lacks(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError) as error:
        dry_run(shrunk(name, tmp_path))
    weight = load(FILES[name]).reconstruction.perceptual
    assert str(error.value) == (
        f"reconstruction.perceptual={weight:g} needs the weights of VGG-16 (528 MB): "
        "reconstruction.vgg=download, or reconstruction.vgg=FILE."
    )
    assert tree(tmp_path) == {}


@by_name
def test_a_dry_run_makes_a_step_with_them(name, vgg, tmp_path, capsys):
    dry_run(shrunk(name, tmp_path, f"reconstruction.vgg={vgg}"))
    assert "one step" in capsys.readouterr().out
    assert tree(tmp_path) == {}
