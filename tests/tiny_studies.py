"""Studies small enough for tests, without stages and with stages of all kinds."""

import json

from tiny_runs import CONFIGS, QUIET, SMALL, TINY, config

ARMS = "study.arms=plain network.norm=pre,post + QK network.norm=post network.qk_norm=true"


def tiny_study(folder, *changes):
    """A study of the tiny generator, without stages; its cells share a cache."""
    words = [f"out_dir={folder / 'grid'}", f"data.cache={folder / 'cache'}", "loop.steps=3"]
    words += ["loop.tracker=none", "optim.warmup=0", "optim.clip=0"]
    return config("generator", folder, "job=study", *words, *changes)


def staged_file(folder):
    """A YAML file with tiny stages of all kinds: a tokenizer x two ways to learn."""
    tokenizer, generator = (" ".join([*TINY[name], *SMALL, *QUIET]) for name in TINY_NAMES)
    of_tokens = "tokenizer.weights=@tokenizer/weights network.codebook_size=32"
    rows = [
        f"tokenizer main.py {CONFIGS}/demo/tokenizer.yaml {tokenizer} loop.steps=4 {OFTEN}",
        "redraw FID_sample.py reconstruct=@tokenizer/weights reference=shapes:32 image_size=32",
        f"cache main.py {CONFIGS}/demo/generator.yaml {generator} {of_tokens} job=cache",
        f"train main.py {CONFIGS}/demo/generator.yaml {generator} {of_tokens} loop.steps=4 {OFTEN} "
        "data.cache=@cache/cache seed=@seed",
        "sample FID_sample.py weights=@train/weights num_images=32 chunk=8 reference=shapes:32",
    ]
    file = folder / "study.yaml"
    lines = ["job: study", f"out_dir: {folder / 'grid'}", "device: cpu", "precision: fp32"]
    lines += ["study:", "  axes:", "    - train:objective=mar ar", "  stages:"]
    file.write_text("\n".join([*lines, *(f"    - {row}" for row in rows)]) + "\n")
    return file


TINY_NAMES = ("tokenizer", "generator")
OFTEN = "loop.save_every=2 loop.validate_every=2 loop.tracker=none"


def read(folder):
    return json.loads((folder / "grid" / "study.json").read_text())
