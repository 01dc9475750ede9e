"""The trainer of generators; exact resume is in test_resume.py, two ranks in test_ranks.py."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_runs import (
    CODES,
    config,
    hashes,
    image_folder,
    losses,
    records,
    text_weights,
    tokenizer_weights,
    train,
    tree,
)

from MaskGIL.masking import draw_mask
from MaskGIL.noise import uniform
from MaskGIL.pipeline import Pipeline
from MaskGIL.weights import load_network, load_weights, save_weights
from Network import build_network, build_tokenizer
from Network.config import UserError
from Network.gpt import GPT
from Trainer.generator_data import has_cache, write_caches
from Trainer.memory import fit_into_memory
from Trainer.objective import mode_of
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
        assert torch.equal(first["tokens"], online.source.encode(second.pop("images")))
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


def test_features_of_captions_are_made_white_by_those_of_training(tmp_path):
    folder, words = text_weights(tmp_path), [FP32, "network.caption_whitening=true"]
    trainer = GeneratorTrainer(config("text", folder, *words))
    trainer.prepare()
    whitening = trainer.module.condition.whitening
    assert torch.equal(trainer.ema.tensors["condition.whitening.matrix"], whitening.matrix)
    cache = trainer.source.features["train"]
    rows = np.arange(len(cache.counts))  # all 64 pictures, of which the first captions count
    captions = cache.captions(rows, np.zeros_like(rows))
    found = whitening(captions.features[~captions.mask])
    torch.testing.assert_close(found.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    spread = torch.linalg.eigvalsh(torch.cov(found.T))
    assert spread[-1].item() == pytest.approx(1, abs=0.01)
    begun = GeneratorTrainer(config("text", folder, *words, f"init_from={tmp_path / 'given'}"))
    given = build_network(trainer.module.config)
    given.condition.whitening.measure(torch.randn(99, 16))
    save_weights(tmp_path / "given", trainer.tokenizer, network=given)
    begun.prepare()  # weights keep what they have learned with
    assert torch.equal(begun.module.condition.whitening.mean, given.condition.whitening.mean)


def test_it_learns(folder, tmp_path):
    """64 images by heart: the loss falls well below that of knowing nothing, log(codes)."""
    words = [FP32, "loop.steps=60", "masking.label_smoothing=0", "optim.lr=1e-2"]
    train("generator", folder, *words, f"out_dir={tmp_path}")
    found = losses(tmp_path)
    assert found[0].item() == pytest.approx(math.log(CODES), abs=0.01)
    assert found[-10:].mean() < 0.9 * math.log(CODES)


# Raster order


def test_in_raster_order_every_token_counts(make):
    """Whole tokens go in; parts of a step add up to the mean over all images."""
    trainer, spy = make("objective=ar", "masking.label_smoothing=0", "data.tokens=online"), Spy()
    batch = trainer.dataset()[3]
    loss, _ = trainer.loss(spy, batch)
    assert spy.causal
    assert spy.rows is None
    assert torch.equal(spy.tokens, spy.targets)
    assert torch.equal(spy.tokens, trainer.source.encode(batch["images"]))
    assert loss.item() == pytest.approx(math.log(CODES))
    quarter = {name: tensor[:4] for name, tensor in batch.items()}
    assert trainer.loss(spy, quarter)[0].item() == pytest.approx(math.log(CODES) / 4)


def test_both_take_turns_by_the_step(make):
    trainer, spy = make("objective=both"), Spy()
    modes = []
    for trainer.step in range(30):
        trainer.loss(spy, trainer.dataset()[trainer.step])
        modes.append("ar" if spy.causal else "mar")
        assert (spy.rows is None) == spy.causal
        assert (spy.tokens == CODES).any() != spy.causal
    assert modes == [mode_of("both", 0, step) for step in range(30)]
    assert {"mar", "ar"} == set(modes)


def test_what_fits_into_memory_is_tried_with_the_dearest_step(make, monkeypatch):
    """A step in raster order computes all rows, whatever the coin says of the last step."""
    trainer, asked = make("objective=both", "loop.accumulation=0"), []
    monkeypatch.setattr(trainer, "log", SimpleNamespace(line=lambda text: None), raising=False)
    forward = RowLogits.forward

    def spy(self, tokens, labels, rows, targets, causal):
        asked.append((rows, causal))
        return forward(self, tokens, labels, rows, targets, causal)

    monkeypatch.setattr(RowLogits, "forward", spy)
    fit_into_memory(trainer, {})
    assert asked
    assert set(asked) == {(None, True)}
    assert trainer.mode() == mode_of("both", 0, 0)


def test_what_fits_into_memory_is_tried_with_the_largest_bucket(folder, tmp_path, monkeypatch):
    """Whatever shape the step has that is next."""
    words = ["data.buckets=32x32,32x96", "loop.accumulation=0", "network.learned_positions=false"]
    words += ["data.source=scenes", "network.num_classes=0", f"out_dir={tmp_path}", FP32]
    for seed in range(4):
        trainer = GeneratorTrainer(config("generator", folder, *words, f"seed={seed}"))
        trainer.prepare()
        asked, forward = [], RowLogits.forward

        def spy(self, tokens, *others, asked=asked, forward=forward):
            asked.append(tuple(tokens.shape[1:]))
            return forward(self, tokens, *others)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "log", SimpleNamespace(line=lambda text: None), raising=False)
            patch.setattr(RowLogits, "forward", spy)
            fit_into_memory(trainer, {})
        assert set(asked) == {(4, 12)}


def test_the_log_tells_the_modes_of_both_apart(folder, tmp_path):
    """And the loss that steps have, whatever their mode."""
    words = ["objective=both", "loop.steps=8", FP32]
    train("generator", folder, *words, f"out_dir={tmp_path / 'each'}")
    modes = [mode_of("both", 0, step) for step in range(8)]
    assert {"mar", "ar"} == set(modes)
    own = {"mar": [], "ar": []}
    for mode, line in zip(modes, records(tmp_path / "each"), strict=True):
        assert [name for name in line if "acc" in name] == [f"{mode}_acc"]
        assert line[f"{mode}_loss"] == line["loss"]
        own[mode].append(line)
    train("generator", folder, *words, "loop.log_every=8", f"out_dir={tmp_path / 'once'}")
    (line,) = records(tmp_path / "once")
    for mode, lines in own.items():
        for name in (f"{mode}_loss", f"{mode}_acc"):
            mean = sum(each[name] for each in lines) / len(lines)
            assert line[name] == pytest.approx(mean)
    mean = sum(each["loss"] for lines in own.values() for each in lines) / 8
    assert line["loss"] == pytest.approx(mean)


def test_blocks_computed_again_learn_both_the_same_with_dropout(folder, tmp_path):
    """Bit for bit, in steps of either mode: the second computation drops the same numbers."""
    assert {mode_of("both", 0, step) for step in range(4)} == {"mar", "ar"}
    for share in (0, 1):
        words = ["objective=both", "network.dropout=0.1", "loop.steps=4", "loop.save_every=4", FP32]
        words += [f"loop.checkpoint_blocks={share}", f"out_dir={tmp_path / str(share)}"]
        train("generator", folder, *words)
    assert hashes(tmp_path / "0", 4) == hashes(tmp_path / "1", 4)


@pytest.mark.parametrize("objective", ["ar", "both"])
def test_three_million_parameters_learn(folder, tmp_path, objective):
    """The loss falls well below log(codes), that of knowing nothing, in either mode."""
    words = [f"objective={objective}", "network.depth=6", "network.width=192", "network.heads=6"]
    words += ["masking.label_smoothing=0", "optim.lr=1e-3", "loop.steps=30", "optim.ema=0"]
    words += ["loop.validate_every=30", "data.num_images=32", FP32, f"out_dir={tmp_path}"]
    trainer = train("generator", folder, *words)
    assert 2.5e6 < sum(p.numel() for p in trainer.module.parameters()) < 3.5e6
    found = losses(tmp_path)
    assert found[0].item() == pytest.approx(math.log(CODES), abs=0.01)
    assert found[-6:].mean() < 0.85 * math.log(CODES)
    (validated,) = records(tmp_path, "validation")
    names = {"ar": ["ar_loss"], "both": ["loss", "ar_loss"]}[objective]
    for name in names:
        assert validated[name] < 0.95 * math.log(CODES)


def test_a_run_in_raster_order_draws_scores_and_exports(folder, tmp_path):
    words = ["objective=ar", "loop.steps=2", "loop.sample_every=2", "loop.validate_every=2"]
    words += ["loop.score_every=2", "loop.score_images=20", FP32, "sampling.num_steps=99"]
    train("generator", folder, *words, f"out_dir={tmp_path}")
    assert (tmp_path / "samples" / "step-0000002.png").is_file()
    assert records(tmp_path, "score")[0]["images"] == 20
    (validated,) = records(tmp_path, "validation")
    assert {"ar_loss", "ar_acc"} == validated.keys() - {"step", "kind"}
    log = (tmp_path / "log.txt").read_text()
    assert "objective  ar: every token from those before it" in log
    weights = load_weights(tmp_path / "weights")
    assert weights.objective == "ar"
    pipe = Pipeline.from_pretrained(tmp_path / "weights", "cpu")
    assert len(pipe.plan()) == 16


def test_details_of_a_validation_are_kept_but_not_printed(folder, tmp_path):
    words = ["objective=both", "loop.steps=1", "loop.validate_every=1", FP32]
    train("generator", folder, *words, f"out_dir={tmp_path}")
    (validated,) = records(tmp_path, "validation")
    assert {"loss", "acc", "ar_loss", "ar_acc", "acc 0-25%", "loss 75-100%"} <= validated.keys()
    (line,) = [x for x in (tmp_path / "log.txt").read_text().splitlines() if "validation at" in x]
    names = [part.split()[0] for part in line.split(" | ")[1:]]
    assert names == ["loss", "acc", "ar_loss", "ar_acc"]


# Large codebooks


def test_tokens_in_parts_train_end_to_end(tmp_path):
    """Tokens of MAGVIT-v2's family, 2^18 of them, cached, masked and in raster order."""
    words = ["tokenizer.family=magvit2", "tokenizer.code_width=18", "tokenizer.latent_width=18"]
    words += [f"tokenizer.codebook_size={2**18}", "tokenizer.attention_levels="]
    words += ["tokenizer.encoder_middle=blocks", "tokenizer.decoder_middle=blocks"]
    architecture = replace(config("tokenizer", tmp_path, *words).tokenizer, weights="")
    save_weights(tmp_path / "weights", tiny.fill(build_tokenizer(architecture)))
    words = ["objective=both", f"network.codebook_size={2**18}", "loop.steps=40", FP32]
    words += ["loop.validate_every=40", "loop.sample_every=40", "masking.label_smoothing=0"]
    words += ["optim.lr=1e-2", "data.num_images=32"]
    trainer = train("generator", tmp_path, *words)
    assert trainer.source.validation[0][0].max() > 65536
    assert sum(p.numel() for p in trainer.module.parameters()) < 600_000
    found = losses(tmp_path / "generator")
    assert found[0].item() == pytest.approx(18 * math.log(2), abs=0.05)
    assert found[-8:].mean() < 0.7 * 18 * math.log(2)
    for plan in ("mar", "ar"):
        pipe = Pipeline.from_pretrained(tmp_path / "generator" / "weights", "cpu")
        drawn = pipe([0, 1], plan=plan, num_inference_steps=4).tokens
        assert 65536 < drawn.max() < 2**18


# Validation, pictures and weights


def test_validation_of_a_network_that_knows_nothing(make):
    trainer = make()
    values = trainer.validate()
    assert values["loss"] == pytest.approx(math.log(CODES), abs=1e-4)
    ((tokens, labels),) = trainer.source.validation
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
    ((_, labels),) = trainer.source.validation
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
        ("sampling.plan=ar", "plan=ar asks for what these weights have not learned: they were "
         "trained with objective=mar; use plan=mar, or sample with an AR network beside them, "
         "ar_weights=RUN/weights."),
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


def test_a_network_that_cannot_is_told(make, tmp_path, monkeypatch):
    monkeypatch.setattr(GPT, "objectives", ("mar",))
    with pytest.raises(UserError) as error:
        make("objective=both")
    assert str(error.value) == "A network of network.kind=gpt learns objective=mar, not both."
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
    with pytest.raises(UserError, match="does not fit this network"):
        make(f"init_from={weights}", "network.width=16")


def test_fine_tuning_on_other_classes(folder, tmp_path):
    """The table of classes begins anew, and the log says so; a resumed run does not begin again."""
    train("generator", folder, "loop.steps=2", f"out_dir={tmp_path / 'first'}")
    weights, run = tmp_path / "first" / "weights", tmp_path / "second"
    words = [f"init_from={weights}", "network.num_classes=0", f"out_dir={run}", "loop.save_every=2"]
    train("generator", folder, *words, "loop.steps=2")
    told = f"begun with {weights}, but for condition.table.weight\n"
    assert told in (run / "log.txt").read_text()
    train("generator", folder, *words, "loop.steps=4")
    assert (run / "log.txt").read_text().count("begun with") == 1


def test_weights_of_raster_order_begin_a_masked_run(folder, make, tmp_path):
    train("generator", folder, "loop.steps=2", "objective=ar", f"out_dir={tmp_path / 'first'}")
    weights = tmp_path / "first" / "weights"
    assert load_weights(weights).objective == "ar"
    trainer = make(f"init_from={weights}")
    assert trainer.config.objective == "mar"
    given, begun = load_network(weights).state_dict(), trainer.module.state_dict()
    assert all(torch.equal(begun[name], given[name]) for name in given)


def test_what_may_begin_anew_is_for_weights_that_are_given(make):
    with pytest.raises(UserError, match=r"^init_skip is for job=generator with init_from=WEIGHTS"):
        make("init_skip=output")


KINDS = {
    "vit": ("network.kind=vit",),
    "halton": ("network.kind=halton",),
    "published": ("network.rotary=published", "network.norm=pre", "network.qk_norm=false"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_train_and_are_sampled(folder, tmp_path, kind):
    """64 images by heart, as in `test_it_learns`; then a picture from the weights folder."""
    words = [FP32, "loop.steps=40", "masking.label_smoothing=0", "optim.lr=1e-2", *KINDS[kind]]
    train("generator", folder, *words, f"out_dir={tmp_path}")
    found = losses(tmp_path)
    assert found[-10:].mean() < 0.95 * math.log(CODES)
    pipe = Pipeline.from_pretrained(tmp_path / "weights", "cpu")
    assert pipe.network.config == config("generator", folder, *KINDS[kind]).network
    assert pipe([0, 1]).tokens.max() < CODES


def test_the_published_layout_has_no_raster_order(make):
    with pytest.raises(UserError, match=r"learns objective=mar, not ar"):
        make("network.rotary=published", "objective=ar")
