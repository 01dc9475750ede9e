"""The trainer of generators; exact resume is in test_resume.py, two ranks in test_ranks.py."""

import math

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_runs import (
    CODES,
    config,
    image_folder,
    losses,
    records,
    tokenizer_weights,
    train,
    tree,
)

from MaskGIL.masking import draw_mask
from MaskGIL.noise import uniform
from MaskGIL.pipeline import Pipeline
from MaskGIL.weights import load_network, load_weights
from Network import build_network
from Network.config import UserError
from Trainer.tokens import has_cache, write_caches
from Trainer.vit import GeneratorTrainer, RowLogits, shown_classes

FP32 = "precision=fp32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_weights(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def make(folder, tmp_path):
    """A trainer with a folder of its own, of the shared tokenizer."""

    def make(*changes):
        words = [f"out_dir={tmp_path / 'run'}", FP32, *changes]
        trainer = GeneratorTrainer(config("generator", folder, *words))
        trainer.prepare()
        return trainer

    return make


class Spy:
    """An objective whose logits are all zero, and which keeps what it was asked."""

    def __call__(self, tokens, labels, rows, targets, causal):
        self.tokens, self.labels, self.rows = tokens, labels, rows
        self.targets, self.causal = targets, causal
        num_rows = tokens.numel() if rows is None else len(rows)
        return torch.zeros(num_rows, CODES)


# Tokens


def test_online_tokens_give_the_losses_of_cached_ones(folder, tmp_path):
    words = [FP32, "loop.steps=6", "loop.validate_every=6", "data.crops=flip"]
    for kind in ("cache", "online"):
        train("generator", folder, *words, f"data.tokens={kind}", f"out_dir={tmp_path / kind}")
    assert (tmp_path / "cache" / "cache").exists()
    assert not (tmp_path / "online" / "cache").exists()
    assert records(tmp_path / "online") == records(tmp_path / "cache")
    assert records(tmp_path / "online", "validation") == records(tmp_path / "cache", "validation")


def test_online_batches_are_the_crops_of_cached_ones(make):
    cached = make("data.crops=flip")
    online = make("data.crops=flip", "data.tokens=online")
    for step in (0, 5):
        first, second = cached.dataset()[step], online.dataset()[step]
        assert torch.equal(first["tokens"], online._encode(second.pop("images")))
        assert all(torch.equal(first[name], second[name]) for name in second)


def test_caches_are_float32_and_there_before_the_first_step(folder, tmp_path, monkeypatch):
    """Validation computes in bf16: the cache must not be written in the midst of it."""
    words = ["precision=bf16", "loop.steps=1", "loop.validate_every=1"]
    write_caches(config("generator", folder, FP32, f"data.cache={tmp_path / 'apart'}"))
    there, validate = [], GeneratorTrainer.validate

    def spy(self):
        there.append(has_cache(self.config))
        return validate(self)

    monkeypatch.setattr(GeneratorTrainer, "validate", spy)
    train("generator", folder, *words, f"out_dir={tmp_path / 'run'}")
    assert there == [True]
    first, second = (
        list(tree(each).values()) for each in (tmp_path / "apart", tmp_path / "run/cache")
    )
    assert first == second


# The loss


def test_counted_tokens_of_all_parts_sum_to_the_announced_total(make, monkeypatch):
    """Else the loss of a step would depend on how it is cut."""
    counted = []
    trainer = make("loop.accumulation=4", "data.tokens=online")

    def masked_loss(logits, targets, weights, total, label_smoothing, sizes):
        counted.append((weights.sum().item(), float(total)))
        return logits.sum(), logits.sum()

    monkeypatch.setattr("Trainer.vit.masked_loss", masked_loss)
    for step in range(6):
        counted.clear()
        batch = trainer.dataset()[step]
        for part in range(4):
            piece = {name: each[4 * part : 4 * part + 4] for name, each in batch.items()}
            trainer.loss(Spy(), piece)
        (total,) = {total for _, total in counted}
        assert sum(count for count, _ in counted) == total == batch["hidden"].sum()


def test_hidden_tokens_and_no_others_reach_the_loss(make):
    trainer, spy = make("masking.label_smoothing=0"), Spy()
    batch = trainer.dataset()[3]
    loss, _ = trainer.loss(spy, batch)
    mask = draw_mask(batch["hidden"], 0, batch["samples"], 16)
    tokens = batch["tokens"].flatten(1)
    assert torch.equal(spy.tokens.flatten(1) == CODES, mask)
    assert torch.equal(spy.tokens.flatten(1)[~mask], tokens[~mask])
    count = int(mask.sum())
    assert set(spy.rows[:count].tolist()) == set(mask.flatten().nonzero()[:, 0].tolist())
    assert loss.item() == pytest.approx(math.log(CODES))  # all codes alike


def test_visible_tokens_count_as_much_as_asked(make):
    """Logits that are right about half the images: their rows have loss 0."""
    trainer = make("masking.visible_weight=0.25", "masking.label_smoothing=0")
    batch = trainer.dataset()[0]
    hidden = batch["hidden"].float()
    right = torch.arange(16) < 8

    def objective(tokens, labels, rows, targets, causal):
        assert rows is None
        logits = 1e4 * torch.nn.functional.one_hot(batch["tokens"].flatten(), CODES).float()
        return logits * right.repeat_interleave(16)[:, None]

    loss, metrics = trainer.loss(objective, batch)
    weights = hidden + 0.25 * (16 - hidden)
    assert loss.item() == pytest.approx(
        math.log(CODES) * weights[~right].sum().item() / weights.sum().item()
    )
    assert metrics["acc"] > weights[right].sum() / weights.sum() - 1e-6


def test_labels_are_dropped_by_sample_alone(make):
    trainer, spy = make("masking.class_drop=0.3", "optim.batch=64", "data.tokens=online"), Spy()
    batch = trainer.dataset()[2]
    trainer.loss(spy, batch)
    dropped = uniform(torch.tensor(0), "class drop", batch["samples"], 0) < 0.3
    assert spy.labels.tolist() == torch.where(dropped, 16, batch["labels"]).tolist()
    assert 8 < dropped.sum() < 31  # 64 draws of 0.3, three standard deviations of 3.7


def test_an_unconditional_network_learns_the_null_label(make):
    trainer, spy = make("network.num_classes=0", "data.tokens=online"), Spy()
    trainer.loss(spy, trainer.dataset()[0])
    assert set(spy.labels.tolist()) == {0}


def test_it_learns(folder, tmp_path):
    """64 images by heart: the loss falls well below that of knowing nothing, log(codes)."""
    words = [FP32, "loop.steps=60", "masking.label_smoothing=0", "optim.lr=1e-2"]
    train("generator", folder, *words, f"out_dir={tmp_path}")
    found = losses(tmp_path)
    assert found[0].item() == pytest.approx(math.log(CODES), abs=0.01)
    assert found[-10:].mean() < 0.9 * math.log(CODES)


# Validation, pictures and weights


def test_validation_of_a_network_that_knows_nothing(make):
    trainer = make()
    values = trainer.validate()
    assert values["loss"] == pytest.approx(math.log(CODES), abs=1e-4)
    tokens, labels = trainer.validation
    assert (tokens.shape, labels.shape) == ((256, 4, 4), (256,))


def test_validation_takes_no_more_images_at_once_than_a_step(make):
    trainer, counts = make("loop.accumulation=4"), []
    embedding = trainer.module.token_embedding
    embedding.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    trainer.validate()
    assert set(counts) == {trainer.part} == {4}


@pytest.mark.parametrize(("weight", "told"), [("0", False), ("0.1", True)])
def test_the_start_tells_that_visible_tokens_cost_every_row(make, weight, told):
    facts = make(f"masking.visible_weight={weight}", "data.tokens=online").facts()
    sentence = "of all tokens, visible ones count 0.1: every row is computed"
    assert facts.get("loss") == (sentence if told else None)


@pytest.mark.parametrize("kind", ["cache", "online"])
def test_pictures_without_classes(folder, tmp_path, kind):
    (tmp_path / "images").mkdir()
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 99, 5 * number)).save(tmp_path / f"images/{number}.png")
    words = ("data.source=folder", f"data.path={tmp_path / 'images'}", f"data.tokens={kind}",
             "optim.batch=8", "loop.steps=2", "loop.validate_every=2", "loop.sample_every=2",
             f"out_dir={tmp_path / 'run'}")  # fmt: skip
    with pytest.raises(
        UserError, match=r"^Data has 0 classes, .* Use network.num_classes=0 or other data\.$"
    ):
        train("generator", folder, *words)
    train("generator", folder, *words, "network.num_classes=0")
    assert len(records(tmp_path / "run", "validation")) == 1
    weights = load_weights(tmp_path / "run" / "weights")
    assert weights.classes == []
    drawn = Pipeline(weights.network, weights.tokenizer)(num_inference_steps=2)
    assert drawn.images[0].size == (32, 32)


@pytest.mark.parametrize("kind", ["cache", "online"])
def test_unreadable_validation_files_are_left_out(make, tmp_path, kind):
    images = image_folder(tmp_path / "images", val=4)
    (images / "val" / "cat" / "1.png").write_bytes(b"")
    trainer = make(
        "data.source=folder", f"data.path={images}", "network.num_classes=2", "data.max_bad=0.5",
        f"data.tokens={kind}",
    )  # fmt: skip
    _, labels = trainer.validation
    assert labels.tolist() == [0] * (3 if kind == "cache" else 4) + [1] * 4
    assert (tmp_path / "run" / "bad_files.txt").read_text().startswith("val/cat/1.png\t")


def test_the_weights_folder_holds_all_that_sampling_needs(folder, tmp_path):
    words = ["loop.steps=2", f"out_dir={tmp_path}", "sampling.num_steps=5"]
    trainer = train("generator", folder, *words)
    state = trainer.module.state_dict()
    for ema, expected in ((False, state), (True, trainer.ema.tensors)):
        found = load_weights(tmp_path / "weights", ema=ema)
        assert all(torch.equal(t, expected[name]) for name, t in found.network.state_dict().items())
    assert found.classes == list(trainer.images.classes)
    assert found.sampling.num_steps == 5
    assert found.tokenizer.fingerprint == trainer.tokenizer.fingerprint
    assert not torch.equal(state["output.weight"], trainer.ema.tensors["output.weight"])


def test_pictures_of_the_same_weights_are_the_same(make, tmp_path):
    trainer = make("data.tokens=online")
    for name in ("one.png", "two.png"):
        with trainer.averaged():
            trainer.picture(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert Image.open(tmp_path / "one.png").size == (8 * 34 + 2, 8 * 34 + 2)


def test_pictures_take_no_more_images_at_once_than_a_step(make, tmp_path):
    """And stay the same: the noise of an image depends on its number alone."""
    pictures, counts = [], []

    def count(module, inputs):
        counts.append(len(inputs[0]))

    for parts in (1, 4):
        words = ("data.tokens=online", "sampling.num_steps=3", f"loop.accumulation={parts}")
        trainer = make(*words)
        tiny.fill(trainer.module)  # or the head is zero, and no code is any likelier than another
        trainer.module.norm.register_forward_pre_hook(count)
        trainer.tokenizer.decoder.register_forward_pre_hook(count)
        trainer.picture(path := tmp_path / f"{parts}.png")
        assert set(counts) == {trainer.part, 2 * trainer.part}  # twice: guidance
        counts.clear()
        pictures.append(np.asarray(Image.open(path), dtype=int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1  # matrix products round by their size


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [
        (0, [0] * 64),
        (9, [label for label in range(9) for _ in range(7)]),
        (16, [label for label in range(16) for _ in range(4)]),
        (100, list(range(64))),
    ],
)
def test_shown_classes(num_classes, expected):
    assert shown_classes(num_classes) == expected


def test_of_imagenet_eight_rows_of_eight_are_shown():
    shown = shown_classes(1000)
    assert [len(set(shown[start : start + 8])) for start in range(0, 64, 8)] == [1] * 8
    assert len(set(shown)) == 8


# Mistakes: told before anything is written


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("network.codebook_size=8", "The tokenizer has 32 codes, network.codebook_size is 8. "
         "Use network.codebook_size=32."),
        ("network.grid=8,4", "Images of 32 pixels give 4x4 tokens, network.grid is 8x4. "
         "Use network.grid=4,4."),
        ("network.num_classes=10", "Data has 16 classes, network.num_classes is 10. "
         "Use network.num_classes=16 or other data."),
        ("data.image_size=36", "data.image_size=36 is not divisible by the tokenizer's stride 8."),
        ("sampling.num_steps=17",
         "num_steps=17 must lie between 1 and the number of tokens, 16."),
        ("network.heads=3", "network.heads=3 must divide network.width=32 into heads whose width "
         "is a multiple of 4."),
        ("tokenizer.weights=", "tokenizer.weights is empty; name the weights folder of a trained "
         "tokenizer, tokenizer.weights=runs/TOKENIZER/weights."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_written(make, tmp_path, word, sentence):
    with pytest.raises(UserError) as error:
        make(word)
    assert str(error.value) == sentence
    assert tree(tmp_path) == {}


def test_missing_validation_images_are_told_before_training(make, tmp_path):
    images = image_folder(tmp_path / "images", val=0)
    (images / "val" / "cat").rmdir()
    with pytest.raises(UserError, match="only one of them has cat"):
        make("data.source=folder", f"data.path={images}", "network.num_classes=2")


def test_the_meta_device_carries_the_objective():
    with torch.device("meta"):
        objective = RowLogits(build_network(tiny.network_config()))
        tokens, labels = torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        assert objective(tokens, labels, None).shape == (32, 11)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", ["cache", "online"])
def test_a_gpu_learns_the_same(folder, tmp_path, tokens):
    words = ("loop.steps=12", f"data.tokens={tokens}", "loop.save_every=6")
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        changes = (f"device={device}", f"precision={precision}", f"data.cache={tmp_path / device}")
        train("generator", folder, *words, *changes, f"out_dir={tmp_path / (device + precision)}")
    cpu, cuda = losses(tmp_path / "cpufp32"), losses(tmp_path / "cudafp32")
    torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=0)
    torch.testing.assert_close(losses(tmp_path / "cudabf16"), cpu, rtol=3e-2, atol=0)


def test_fine_tuning_begins_with_the_averaged_weights(folder, make, tmp_path):
    train("generator", folder, "loop.steps=3", f"out_dir={tmp_path / 'first'}")
    weights = tmp_path / "first" / "weights"
    trainer = make(f"init_from={weights}")
    given = load_network(weights).state_dict()
    begun = trainer.module.state_dict()
    assert all(torch.equal(begun[name], given[name]) for name in given)
    with pytest.raises(UserError, match="do not fit this architecture"):
        make(f"init_from={weights}", "network.width=16")
