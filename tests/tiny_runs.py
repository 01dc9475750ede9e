"""Runs small enough for tests: the demo configurations on 32x32 pixels, 4x4 tokens and few images.

Every step is logged, and nothing is validated or drawn unless a test asks for it.
"""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_text
import torch
from PIL import Image
from torch import multiprocessing

from MaskGIL.config import load_config
from MaskGIL.distributed import process_group
from MaskGIL.weights import save_weights
from Network import build_tokenizer
from Trainer.config import RunConfig
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer

CONFIGS = Path(__file__).parent.parent / "MaskGIL" / "configs"
QUIET = ("loop.log_every=1", "loop.validate_every=0", "loop.sample_every=0", "loop.save_every=1000")
TINY = {
    "generator": ("network.depth=2", "network.width=32", "network.heads=2", "network.grid=4,4"),
    "tokenizer": (
        "tokenizer.width=4",
        "tokenizer.multipliers=1,1,2,4",
        "tokenizer.latent_width=8",
        "tokenizer.codebook_size=32",
    ),
}
# Beside "generator": captions of drawn scenes in two shapes, by the encoder in FOLDER/encoder
OF_TEXT = (
    *("data.source=scenes", "data.buckets=32x32,32x48", "network.num_classes=0"),
    *("network.caption_width=16", "network.caption_tokens=12", "network.learned_positions=false"),
)
SMALL = ("data.image_size=32", "data.num_images=64", "optim.batch=16", "optim.warmup=2")
CODES = 32


class DoubleGenerator(GeneratorTrainer):
    """In float64, where two orders of the same sum differ by 1e-15."""

    def build(self):
        return super().build().double()


class ScaledGenerator(GeneratorTrainer):
    """With its loss scaled as in fp16, and so much at first that gradients overflow."""

    def prepare(self):
        super().prepare()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)


TRAINERS = {
    "generator": GeneratorTrainer,
    "tokenizer": TokenizerTrainer,
    "double": DoubleGenerator,
    "both": GeneratorTrainer,
    "text": GeneratorTrainer,
    "scaled": ScaledGenerator,
}


def config(job, folder, *changes):
    """The demo configuration of a job, tiny; a generator needs FOLDER/weights beside its run."""
    file, *tiny_words = words(job, folder)
    return load_config(RunConfig, file, [*tiny_words, *changes])


def words(job, folder):
    """What the command line says for it."""
    file = "tokenizer" if job == "tokenizer" else "generator"
    found = [str(CONFIGS / "demo" / f"{file}.yaml"), *TINY[file], *SMALL, *QUIET, "device=cpu"]
    if file == "generator":
        found += [f"tokenizer.weights={folder / 'weights'}", f"network.codebook_size={CODES}"]
    if job == "text":
        found += [*OF_TEXT, f"text.encoder={folder / 'encoder'}"]
    return [*found, f"out_dir={folder / job}"]


def tokenizer_weights(folder, seed=0):
    """FOLDER/weights of a tokenizer that nobody trained, but whose codes all differ."""
    architecture = replace(config("tokenizer", folder).tokenizer, weights="")
    save_weights(folder / "weights", tiny.fill(build_tokenizer(architecture), seed))
    return folder


def text_weights(folder):
    """Those of `tokenizer_weights`, and a random text encoder in FOLDER/encoder."""
    tiny_text.save_encoder(folder / "encoder")
    return tokenizer_weights(folder)


def train(job, folder, *changes, stop=None):
    """Run a job; at step `stop` it is stopped as Ctrl-C would. Returns the trainer."""
    trainer = TRAINERS[job](config(job, folder, *changes))
    return fit(trainer, stop)


def fit(trainer, stop=None):
    if stop is None:
        trainer.fit()
        return trainer
    train_step = trainer.train_step

    def interrupted(*arguments):
        if trainer.step == stop:
            trainer.checkpoints.wait()  # what a real process does before it ends
            raise KeyboardInterrupt
        train_step(*arguments)

    trainer.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    return trainer


def records(run, kind="train"):
    """Logged numbers, without those that a clock has measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return [line for line in lines if line["kind"] == kind]


def losses(run):
    return torch.tensor([record["loss"] for record in records(run)], dtype=torch.float64)


def hashes(run, step):
    """Sha256 of each file of a checkpoint: weights, average, moments, extra tensors, numbers."""
    manifest = run / "checkpoints" / f"step-{step:07d}" / "manifest.json"
    return json.loads(manifest.read_text())["sha256"]


def tree(folder):
    """Every file below a folder with its bytes: what must not change."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def image_folder(root, classes=("cat", "dog"), train=8, val=4, side=40):
    """ROOT/{train,val}/CLASS/*.png of random blocks of colour."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                blocks = random.integers(256, size=(4, 4, 3), dtype=np.uint8)
                image = Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST)
                image.save(root / split / name / f"{number}.png")
    return root


def run_ranks(world, calls):
    """Make the same calls, functions without arguments, on each of `world` ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_rank, (world, port, calls), nprocs=world)


def _rank(rank, world, port, calls):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        for call in calls:
            call()
