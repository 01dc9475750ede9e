import re
from functools import partial
from itertools import count

import pytest
import tiny
import torch
from tiny_runs import config, image_folder, text_weights, tokenizer_weights, tree

from MaskGIL.device import choose_precision
from Network import build_network
from Network.config import UserError
from Trainer.dry_run import (
    Generator,
    Tokenizer,
    dry_run,
)
from Trainer.footprint import Way, footprint
from Trainer.generator_data import write_caches
from Trainer.memory import free_memory, saved_bytes
from Trainer.tokens import cache_folder
from Trainer.trainer import Trainer
from Trainer.vit import RowLogits
from Trainer.window import Window


@pytest.fixture
def folder(tmp_path):
    return tokenizer_weights(tmp_path)


def told(run, capsys):
    """Name and fact of each line that the dry run of a configuration prints."""
    dry_run(run)
    lines = capsys.readouterr().out.splitlines()
    return {line[:16].strip(): line[17:] for line in lines}


# What it tells


def test_a_generator_is_told_and_nothing_is_written(folder, capsys):
    run = config("generator", folder, "precision=fp32", "loop.steps=1000")
    before = tree(folder)
    facts = told(run, capsys)
    assert list(facts) == [
        "parameters", "memory", "precision", "steps", "FLOPs per image", "one batch", "one step",
    ]  # fmt: skip
    count = sum(p.numel() for p in build_network(run.network).parameters())
    assert facts["parameters"] == f"{count:,}"
    assert re.fullmatch(
        r"\d\.\d\d G in training \(forward and backward\)", facts["FLOPs per image"]
    )
    assert re.match(
        r"[\d.]+ MB predicted at 16 images at once, [\d.]+ GB free on cpu",
        facts["memory"],
    )
    assert facts["precision"] == "float32"
    assert facts["steps"] == "1,000 of 16 images"
    assert facts["one batch"].startswith(
        "images (16, 3, 32, 32), rows (16,), labels (16,), samples (16,), "
    )
    assert re.fullmatch(
        r"[\d.]+ s with its images encoded, as there is no cache yet, so the run takes about \w+",
        facts["one step"],
    )
    assert tree(folder) == before
    assert {path.name for path in folder.iterdir()} == {"weights"}


def test_a_tokenizer_is_told_and_nothing_is_written(tmp_path, capsys):
    facts = told(config("tokenizer", tmp_path), capsys)
    assert facts["one batch"].startswith("images (16, 3, 32, 32)")
    assert facts["one step"]
    assert list(tmp_path.iterdir()) == []


def test_a_finished_cache_is_read(folder, capsys):
    run = config("generator", folder)
    write_caches(run)
    before = tree(folder)
    facts = told(run, capsys)
    assert facts["one batch"].startswith("tokens (16, 4, 4), rows (16,), labels (16,)")
    assert re.fullmatch(r"[\d.]+ s, so the run takes about \w+", facts["one step"])
    assert tree(folder) == before


def test_an_unfinished_cache_is_not_finished(folder, capsys):
    run = config("generator", folder)
    write_caches(run)
    index = cache_folder(run, "train") / "index.json"
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    before = tree(folder)
    assert told(run, capsys)["one batch"].startswith("images (16, 3, 32, 32)")
    assert tree(folder) == before


def test_unreadable_files_are_not_written_down(folder, tmp_path, capsys):
    images = image_folder(tmp_path / "images")
    for file in (images / "train" / "cat").iterdir():
        file.write_bytes(b"")
    words = ["data.source=folder", f"data.path={images}", "network.num_classes=2", "data.max_bad=1"]
    before = tree(tmp_path)
    told(config("generator", folder, *words), capsys)
    assert tree(tmp_path) == before


def test_the_job_cache_is_told(folder, capsys):
    run = config("generator", folder, "job=cache", "data.crops=flip", "network.codebook_size=9")
    facts = told(run, capsys)
    path = folder / "generator" / "cache"
    assert facts["cache of train"] == f"64 images x 2 crops -> 4x4 tokens, 4.4 kB in {path}/train"
    assert facts["cache of val"] == f"256 images x 1 crop -> 4x4 tokens, 9.2 kB in {path}/val"
    assert facts["state"] == "to be written"
    assert not path.exists()
    write_caches(run)
    capsys.readouterr()
    assert told(run, capsys)["state"] == "complete: nothing to do"


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_a_step_that_does_not_fit_is_not_made(folder, capsys, monkeypatch, job):
    """Nor is the module built, which alone might be too much."""
    monkeypatch.setattr("Trainer.dry_run.free_memory", lambda device: 1000)
    monkeypatch.setattr(Trainer, "prepare", lambda self: pytest.fail("built"))
    facts = told(config(job, folder), capsys)
    assert facts["one batch"].startswith("images (16, 3, 32, 32)")
    assert facts["one step"] == "not made: it does not fit; raise loop.accumulation"
    assert "1.0 kB free on cpu" in facts["memory"]


def test_where_not_even_one_image_fits_parts_are_no_remedy(folder, capsys, monkeypatch):
    monkeypatch.setattr("Trainer.dry_run.free_memory", lambda device: 1000)
    facts = told(config("generator", folder, "loop.accumulation=0"), capsys)
    assert facts["one step"] == "not made: it does not fit; choose a smaller network"


def test_parts_are_foretold_where_they_are_left_to_the_memory(folder, capsys, monkeypatch):
    run = config("generator", folder, "loop.accumulation=0")
    model = Generator(run)
    way = Way(torch.device("cpu"), choose_precision("auto", torch.device("cpu")), parts=4)
    needed = footprint(model.build, partial(model.loss_of, 4), way).total
    monkeypatch.setattr("Trainer.dry_run.free_memory", lambda device: needed)
    facts = told(run, capsys)
    assert facts["memory"].startswith(f"{needed / 1e6:.1f} MB predicted at 4 images at once, ")
    assert " so the run takes about " in facts["one step"]


def test_other_ranks_are_silent(folder, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert told(config("generator", folder, "job=cache"), capsys) == {}


def test_mistakes_are_told_as_the_run_would(folder):
    with pytest.raises(UserError, match="Data has 16 classes"):
        dry_run(config("generator", folder, "network.num_classes=3"))


def test_the_clock_starts_when_the_device_is_done_with_the_first_step(folder, monkeypatch):
    """On CUDA a step is only queued: the second one would wait for the first."""
    calls, train_step, means = [], Trainer.train_step, Window.means
    monkeypatch.setattr(
        Trainer, "train_step", lambda *args: (calls.append("step"), train_step(*args))
    )
    monkeypatch.setattr(Window, "means", lambda self: (calls.append("wait"), means(self)))
    monkeypatch.setattr("Trainer.dry_run.time.monotonic", lambda: calls.append("clock") or 0.0)
    dry_run(config("tokenizer", folder))
    turn = ["clock", "step", "wait", "clock"]
    assert calls[calls.index("step") - 1 :] == turn * 2


def test_a_long_step_on_a_cpu_is_made_once(folder, monkeypatch):
    steps, train_step, clock = [], Trainer.train_step, count(step=6.0)
    monkeypatch.setattr(Trainer, "train_step", lambda *args: (steps.append(1), train_step(*args)))
    monkeypatch.setattr("Trainer.dry_run.time.monotonic", lambda: next(clock))
    dry_run(config("tokenizer", folder))
    assert len(steps) == 1


def test_shapes_weigh_by_their_pictures(tmp_path, capsys):
    """Of 25 pictures 13 are square: three batches of five an epoch beside two wide ones."""
    run = config("text", text_weights(tmp_path), "data.num_images=25", "optim.batch=5")
    facts, model = told(run, capsys), Generator(run)
    with torch.device("meta"):
        square, wide = model.flops(model.build(), 5)
    usual = 0.6 * square + 0.4 * wide
    assert square < usual < wide
    assert facts["FLOPs per image"] == (
        f"{usual / 1e9:.2f} G in training (forward and backward), by the pictures there are: "
        "60% 32x32, 40% 32x48"
    )
    batch = {square: "images (5, 3, 32, 32)", wide: "images (5, 3, 32, 48)"}
    (first,) = (flops for flops, told in batch.items() if facts["one batch"].startswith(told))
    assert f", of {first / usual:.2f} times the usual FLOPs, so the run" in facts["one step"]


def test_the_precision_of_a_tokenizer_is_never_fp16(folder, capsys, monkeypatch):
    monkeypatch.setattr("Trainer.trainer.choose_precision", lambda *_: torch.float16)
    assert told(config("tokenizer", folder), capsys)["precision"] == "float32"


# Numbers


def test_saved_bytes_of_a_linear_layer_by_hand():
    """The layer keeps its input (B, 5), the square its own (B, 7); weights are not counted."""
    with torch.device("meta"):
        layer = torch.nn.Linear(5, 7)
        square = torch.nn.Sequential(layer, torch.nn.Hardtanh())
        assert saved_bytes(square, lambda: square(torch.empty(3, 5))) == 3 * (5 + 7) * 4


def test_saved_bytes_grow_linearly_with_the_batch():
    with torch.device("meta"):
        objective = RowLogits(build_network(tiny.network_config()))

        def bytes_of(batch):
            tokens = torch.empty(batch, 4, 4, dtype=torch.int64)
            return saved_bytes(objective, lambda: objective(tokens, tokens[:, 0, 0], None))

        two, three, five, nine = map(bytes_of, (2, 3, 5, 9))
    assert three - two > 16 * 32 * 4  # at least the hidden states of an image
    assert five - three == 2 * (three - two)
    assert nine - five == 4 * (three - two)


def test_saved_bytes_on_the_meta_device_are_those_of_a_real_step(monkeypatch):
    """As other devices and compiled steps go; a plain one on a CPU keeps a quarter less."""
    objective = RowLogits(build_network(tiny.network_config()))

    def saved(place):
        tokens = torch.zeros(2, 4, 4, dtype=torch.int64, device=place)
        return saved_bytes(objective, partial(objective.to(place), tokens, tokens[:, 0, 0], None))

    plain = saved("cpu")
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    real, meta = saved("cpu"), saved("meta")
    assert meta == pytest.approx(real, rel=0.2)  # attention keeps a little more or less
    assert plain < 0.8 * real


@pytest.mark.parametrize(("job", "kind"), [("generator", Generator), ("tokenizer", Tokenizer)])
def test_the_memory_told_is_the_footprint_of_the_whole_share(folder, capsys, job, kind):
    run = config(job, folder, "precision=fp32")
    model = kind(run)
    found = footprint(model.build, partial(model.loss_of, 16), Way(torch.device("cpu")))
    assert told(run, capsys)["memory"].startswith(f"{found.total / 1e6:.1f} MB predicted")


@pytest.mark.parametrize("words", [[], ["masking.visible_weight=0.1"]])
def test_the_loss_of_a_generator_keeps_a_row_of_logits_per_counted_token(folder, words):
    """The logarithms of the softmax in float32 (M, V), and M targets, weights and losses."""
    model = Generator(config("generator", folder, *words))
    with torch.device("meta"):
        module, inputs = model.build(), model.inputs(16)
        rows = 16 * 16 if inputs[2] is None else len(inputs[2])
        assert (rows == 16 * 16) == bool(words)
        found = saved_bytes(module, partial(model.loss_of, 16, module))
        found -= saved_bytes(module, partial(module, *inputs))
    assert rows * 32 * 4 <= found <= rows * (32 * 4 + 32)


def test_the_loss_of_a_tokenizer_keeps_its_error(folder):
    model = Tokenizer(config("tokenizer", folder))
    with torch.device("meta"):
        module, inputs = model.build(), model.inputs(16)
        found = saved_bytes(module, partial(model.loss_of, 16, module))
        found -= saved_bytes(module, partial(module, *inputs))
    assert 4 * 16 * 3 * 32 * 32 <= found <= 3 * 4 * 16 * 3 * 32 * 32


def test_there_is_some_memory():
    assert 1e6 < free_memory(torch.device("cpu")) < 1e15


def test_free_memory_counts_what_the_page_cache_can_give_back(tmp_path, monkeypatch):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 64 kB\nMemFree: 3 kB\nMemAvailable:      50 kB\n")
    monkeypatch.setattr("Trainer.memory.MEMINFO", table)
    assert free_memory(torch.device("cpu")) == 50 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each of two ranks on this machine has half of it
    assert free_memory(torch.device("cpu")) == 25 * 1024
    monkeypatch.setattr("Trainer.memory.MEMINFO", tmp_path / "none")
    assert free_memory(torch.device("cpu")) > 1e6
