"""The trainer of tokenizers; exact resume is in test_resume.py, two ranks in test_ranks.py."""

import math
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_runs import config, image_folder, losses, train, tree
from tiny_weights import save_made_up_vgg

from MaskGIL.data.crops import to_float
from MaskGIL.weights import load_tokenizer
from Network.config import UserError
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer
from Trainer.window import Window

NEVER = "reconstruction.revive_every=0"


def make(folder, *changes):
    trainer = TokenizerTrainer(config("tokenizer", folder, "precision=fp32", *changes))
    trainer.prepare()
    return trainer


def steps(trainer, count):
    """Take steps as `fit` does, without a folder; yields behind each."""
    data = trainer.dataset()
    for _ in range(count):
        trainer.train_step(trainer.objective(), data[trainer.step], Window())
        yield trainer.step


def codebook(trainer):
    return trainer.tokenizer.quantize.embedding.weight.detach().clone()


# The loss


def test_the_loss_is_pixel_error_and_the_terms_of_the_quantiser(tmp_path):
    trainer = make(tmp_path, "reconstruction.l1=0.5", "reconstruction.l2=3")
    tiny.fill(trainer.module)
    batch = trainer.dataset()[0]
    loss, metrics = trainer.loss(trainer.objective(), batch)
    images = to_float(batch["images"])
    reconstruction, _, terms = trainer.tokenizer(images)
    error = (reconstruction - images).flatten()
    expected = 0.5 * error.abs().mean() + 3 * error.square().mean() + sum(terms.values())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["l1"], error.detach().abs().mean())
    for name, term in terms.items():
        torch.testing.assert_close(metrics[name], term.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_step_of_a_tokenizer_is_in_fp16(tmp_path, monkeypatch, dtype):
    """Its decoder overflows there, and is in every step; a generator may."""
    monkeypatch.setattr("Trainer.trainer.choose_precision", lambda *_: dtype)
    trainer = make(tmp_path)
    assert trainer.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert not trainer.scaler.is_enabled()
    assert GeneratorTrainer.precision(trainer.config, trainer.device) == dtype


def test_it_learns(tmp_path):
    train("tokenizer", tmp_path, "loop.steps=20", "optim.batch=8", "optim.lr=1e-2")
    found = losses(tmp_path / "tokenizer")
    assert found[-5:].mean() < 0.8 * found[:5].mean()


# Codes


def test_the_first_step_fills_the_codebook_with_latents(tmp_path, monkeypatch):
    given, revive = [], TokenizerTrainer._revive

    def spy(self, codes, latents):
        given.append(latents)
        revive(self, codes, latents)

    monkeypatch.setattr(TokenizerTrainer, "_revive", spy)
    trainer = make(tmp_path)
    before = codebook(trainer)
    next(steps(trainer, 1))
    after = codebook(trainer)
    assert not (after == before).all(1).any()
    latents = {tuple(row) for row in given[0].tolist()}
    assert trainer.latents == []
    assert {tuple(row) for row in after.tolist()} <= latents
    assert torch.equal(trainer.ema.tensors["tokenizer.quantize.embedding.weight"], after)
    moments = trainer.optimizer.state[trainer.tokenizer.quantize.embedding.weight]
    assert not moments["exp_avg"].any()
    assert not moments["exp_avg_sq"].any()


def test_later_only_codes_that_nobody_used_are_replaced(tmp_path, monkeypatch):
    found, revive = [], TokenizerTrainer._revive

    def spy(self, codes, latents):
        counts = self.histograms[1]
        found.append((self.step, counts.sum().item(), codes.tolist(), counts.clone()))
        revive(self, codes, latents)

    monkeypatch.setattr(TokenizerTrainer, "_revive", spy)
    words = ["reconstruction.revive_every=4", "reconstruction.revive_until=0.5", "loop.steps=16"]
    words += ["tokenizer.codebook_size=256"]  # as many as a batch has tokens
    trainer = make(tmp_path, *words)
    assert list(steps(trainer, 16))[-1] == 16
    of_step = 16 * 16  # images, tokens
    assert [line[:2] for line in found] == [(1, of_step), (4, 3 * of_step), (8, 4 * of_step)]
    assert found[0][2] == list(range(256))
    for _, _, codes, counts in found[1:]:
        assert codes == (counts == 0).nonzero()[:, 0].tolist()
        assert 0 < len(codes) < 256


def test_a_step_that_is_not_taken_neither_counts_nor_replaces(tmp_path, monkeypatch):
    """The codebook is filled by the first step that is taken; then all goes on as ever."""
    words = ["reconstruction.revive_every=4", "reconstruction.revive_until=1", "loop.steps=8"]
    trainer, bad = make(tmp_path, *words), (0, 1, 4)
    monkeypatch.setattr(
        "Trainer.vqgan.to_float",
        lambda images: to_float(images) * (torch.nan if trainer.step in bad else 1),
    )
    of_step, before, counted = 16 * 16, codebook(trainer), []  # images, tokens
    for step in steps(trainer, 8):
        counted.append(trainer.histograms.sum(1).tolist())
        replaced = not (codebook(trainer) == before).all(1).any()
        assert replaced == (step >= 3), step
    windows = [[0, 0], [0, 0], [1, 0], [1, 0], [1, 0], [1, 1], [1, 2], [3, 0]]
    assert counted == [[of_step * n for n in each] for each in windows]


def test_revival_can_be_off(tmp_path):
    trainer = make(tmp_path, NEVER)
    before = codebook(trainer)
    next(steps(trainer, 1))
    assert (codebook(trainer) - before).abs().max() < 0.1  # a step of the optimiser, no more


# Validation, pictures and weights


def test_validation_is_the_mean_psnr_of_images(tmp_path, monkeypatch):
    """Of evenly spread ones: rows 0, 85, 170 and 255 of 256."""
    monkeypatch.setattr("Trainer.vqgan.VALIDATION_IMAGES", 4)
    trainer = make(tmp_path)
    trainer.ema.tensors = {
        name: t.clone() for name, t in tiny.fill(trainer.module).state_dict().items()
    }
    ratios = []
    with trainer.averaged():
        values = trainer.validate()
        for row in (0, 85, 170, 255):
            image = torch.from_numpy(np.array(trainer.validation_images.image(row))).permute(
                2, 0, 1
            )
            image = image[None] / 127.5 - 1
            error = trainer.module(image)[0].clamp(-1, 1) - image
            ratios.append(10 * math.log10(2**2 / error.square().mean().item()))
    assert values["psnr"] == pytest.approx(sum(ratios) / 4, rel=1e-4)
    assert 1 / 32 <= values["usage"] <= 1 <= values["ppl"] <= 32


def test_validation_images_are_read_once(tmp_path, monkeypatch):
    trainer = make(tmp_path, "optim.batch=8")
    first = trainer.validate()
    monkeypatch.setattr(trainer.validation_images, "image", lambda row: pytest.fail("read again"))
    assert trainer.validate() == first
    trainer.picture(tmp_path / "picture.png")


def test_unreadable_validation_files_add_up(tmp_path):
    images = image_folder(tmp_path / "images")
    for name in ("cat/1.png", "dog/2.png"):
        (images / "val" / name).write_bytes(b"")
    words = ["data.source=folder", f"data.path={images}"]
    assert len(make(tmp_path, *words, "data.max_bad=0.25").validation) == 8
    message = r"^2 of 8 images cannot be read \(limit data.max_bad=0.2\); mend or "
    with pytest.raises(UserError, match=message):
        make(tmp_path, *words, "data.max_bad=0.2").validate()


def test_the_start_tells_the_size(tmp_path):
    trainer = make(tmp_path, "tokenizer.width=32")
    count = sum(p.numel() for p in trainer.module.parameters())
    assert f", {count / 1e6:.1f}M parameters, 32 codes, " in trainer.facts()["tokenizer"]
    assert count > 1e5


def test_the_weights_folder_holds_the_averaged_tokenizer(tmp_path):
    trainer = train("tokenizer", tmp_path, "loop.steps=3")
    found = load_tokenizer(tmp_path / "tokenizer" / "weights").state_dict()
    average = trainer.ema.tensors
    assert {f"tokenizer.{name}" for name in found} == average.keys()
    assert all(torch.equal(found[name], average[f"tokenizer.{name}"]) for name in found)
    last = trainer.tokenizer.state_dict()
    assert any(not torch.equal(found[name], last[name]) for name in found)


def test_the_picture_shows_images_above_reconstructions(tmp_path):
    trainer = make(tmp_path)
    with trainer.averaged():
        trainer.picture(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (16 * 34 + 2, 2 * 34 + 2)


def test_a_size_that_the_stride_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        make(tmp_path, "data.image_size=36")
    assert str(error.value) == ("data.image_size=36 is not divisible by the tokenizer's stride 8.")
    assert tree(tmp_path) == {}


# The contest

JUDGE = ("adversary.weight=0.5", "adversary.depth=2", "adversary.width=4")


def test_a_discriminator_waits_for_its_step(tmp_path):
    trainer = make(tmp_path, *JUDGE, "adversary.start=2")
    judge = trainer.module.discriminator
    before = [p.detach().clone() for p in judge.parameters()]
    batch = trainer.dataset()[0]
    assert "discriminator" not in trainer.loss(trainer.objective(), batch)[1]
    for step in steps(trainer, 3):
        moved = any(not torch.equal(a, b) for a, b in zip(before, judge.parameters()))
        assert moved == (step == 3), step
    _, metrics = trainer.loss(trainer.objective(), batch)
    assert metrics["discriminator"] > 0
    assert "adversary" in trainer.facts()


def test_gradients_are_clipped_apart(tmp_path):
    trainer = make(tmp_path, *JUDGE, "optim.clip=0.01")
    trainer._gradient(trainer.objective(), trainer.dataset()[0])
    for module in (trainer.tokenizer, trainer.module.discriminator):
        norm = torch.stack([p.grad.norm() for p in module.parameters()]).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["adversary.weight=1", "adversary.depth=4"], "data.image_size=32 is too small for a dis"),
        (["adversary.weight=1", "adversary.depth=2", "adversary.adaptive=true",
          "loop.compile=true"], "adversary.adaptive=true looks at gradients twice"),
        (["adversary.lecam=0.05"], "adversary.lecam=0.05 does nothing with adversary.weight=0; "),
        (["adversary.adaptive=true"], "adversary.adaptive=true does nothing with adversary.weig"),
        (["adversary.start=9"], "adversary.start=9 does nothing with adversary.weight=0; give a "),
        (["tokenizer.name=llamagen-vq16", "data.image_size=256", "tokenizer.entropy_weight=1"],
         "tokenizer.name=llamagen-vq16 is what a generator reads, and the loss weights beside it "
         "would do nothing; to train such a tokenizer use its recipe, MaskGIL/configs/tokenizers/"
         "llamagen-vq16.yaml, and to train its weights further init_from=llamagen-vq16 with it."),
        (["tokenizer.weights=runs/a/weights"], "tokenizer.weights=runs/a/weights is what a gen"),
        (["tokenizer.entropy_weight=-1"], "tokenizer.entropy_weight must not be negative."),
        (["tokenizer.family=magvit2", "tokenizer.code_width=5", "tokenizer.latent_width=5",
          "tokenizer.encoder_middle=blocks"],
         "The codes of magvit2-f8 cannot die: use reconstruction.revive_every=0."),
        (["tokenizer.family=magvit2", "tokenizer.code_width=5", "tokenizer.latent_width=5",
          "tokenizer.encoder_middle=blocks", NEVER, "data.image_size=16",
          "tokenizer.multipliers=1,1,1,1,1"],
         "data.image_size=16 is one token of magvit2-f16, which cannot draw an image of one; use "
         "32 or more."),
        (["reconstruction.perceptual=1"],
         "reconstruction.perceptual=1 needs the weights of VGG-16"),
        (["reconstruction.perceptual=1", "reconstruction.vgg=none"],
         "reconstruction.vgg=none is no file; give one, or auto, download."),
        (["reconstruction.perceptual=-1"], "reconstruction.perceptual must be at least 0"),
        (["tokenizer.family=maskgit", "tokenizer.attention_levels=0"],
         "The family maskgit has no attention"),
        (["tokenizer.family=magvit2", "tokenizer.encoder_middle=none"],
         "tokenizer.encoder_middle=none is not for the family magvit2"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_each_other(tmp_path, monkeypatch, words, sentence):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    with pytest.raises(UserError) as error:
        make(tmp_path, *words)
    assert str(error.value).startswith(sentence)


def test_a_run_that_was_begun_with_a_useless_key_goes_on(tmp_path, monkeypatch):
    """As it could be before such keys were refused; without it the run would be another."""
    words = ["adversary.lecam=0.05", "loop.save_every=1"]
    monkeypatch.setattr("Trainer.adversary.refuse_useless", lambda _: None)
    train("tokenizer", tmp_path, *words, "loop.steps=1")
    monkeypatch.undo()
    assert train("tokenizer", tmp_path, *words, "loop.steps=2").step == 2


def test_a_run_is_not_resumed_with_another_vgg(tmp_path):
    """Whose distances another loss would be; the same one may lie elsewhere."""
    files = [tmp_path / name for name in ("one.pth", "again.pth", "other.pth")]
    weights = torch.load(save_made_up_vgg(files[0]), weights_only=True)
    shutil.copy(files[0], files[1])
    torch.save({name: 1.5 * tensor for name, tensor in weights.items()}, files[2])
    words = ["reconstruction.perceptual=0.5", "optim.batch=4", "loop.save_every=1"]
    train("tokenizer", tmp_path, *words, f"reconstruction.vgg={files[0]}", "loop.steps=1")
    assert "lpips" in (tmp_path / "tokenizer/metrics.jsonl").read_text()
    assert "perceptual lpips-vgg-0.1-" in (tmp_path / "tokenizer/log.txt").read_text()
    train("tokenizer", tmp_path, *words, f"reconstruction.vgg={files[1]}", "loop.steps=2")
    with pytest.raises(UserError, match="was trained with"):
        make(
            tmp_path, *words, f"reconstruction.vgg={files[2]}", f"out_dir={tmp_path / 'tokenizer'}"
        )
