"""What a part of a study finds: numbers of a run, a cache or a set of samples, and its curves.

Numbers follow from the settings alone; what a clock has told stands apart, under "clock".
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from Metrics.sample_config import SampleConfig
from Metrics.scored_set import other_job, sample_and_score
from Trainer.config import RunConfig
from Trainer.generator_data import write_caches
from Trainer.guard import Diverged
from Trainer.tokens import cache_root
from Trainer.trainer import Trainer
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer

TRAINERS = {"generator": GeneratorTrainer, "tokenizer": TokenizerTrainer}
# Numbers of a curve, where there are such
KEPT = ("loss", "acc", "ar_loss", "ar_acc", "mar_loss", "psnr", "usage", "ppl", "bit entropy",
        "distance", "gnorm", "skip", "spikes")  # fmt: skip

Record = dict[str, Any]
Curves = dict[str, dict[str, list[Any]]]


def of_run(config: RunConfig) -> Record:
    """Do a job of main.py. A run that diverges is `ended` by the sentence that says so.

    Raises whatever else ends it.
    """
    if config.job == "cache":
        write_caches(config)
        files = (file for file in cache_root(config).rglob("*") if file.is_file())
        return _found({"megabytes": sum(file.stat().st_size for file in files) / 1e6})
    trainer, ended = TRAINERS[config.job](config), ""
    try:
        trainer.fit()
    except Diverged as error:
        ended = str(error)
    curves = read_curves(Path(config.out_dir) / "metrics.jsonl")
    numbers = {"steps": trainer.step}
    if not ended:  # the last validation of a run that diverges was before it did
        for kind in ("validation", "score"):
            last = {name: curve[-1] for name, curve in curves.get(kind, {}).items()}
            numbers |= {name: value for name, value in last.items() if name != "step"}
        numbers |= _costs(trainer)
        if isinstance(trainer, GeneratorTrainer):
            numbers |= _bits(trainer)
            if sizes := [_number(size) for size in trainer.block_sizes()]:
                curves["blocks"] = {"block": [*range(1, len(sizes) + 1)], "size": sizes}
    return {**_found(numbers), "ended": ended, "curves": curves}


def of_samples(config: SampleConfig) -> Record:
    """Do a job of FID_sample.py, and take the numbers out of the record that it leaves."""
    sample_and_score(config)
    out = Path(config.out)
    job = other_job(config)
    if job == "sweep":
        return _of_sweep(json.loads((out / "sweep.json").read_text()))
    record = json.loads(out.with_suffix(".json").read_text())
    if job == "reconstruct":
        return _of_reconstructions(record)
    numbers = {name: value for name, value in record["metrics"].items() if _is_number(value)}
    if record.get("fid") is not None:
        numbers["FID"] = record["fid"]
    made = record.get("made")
    clock = {"seconds per image": 1 / made["images_per_second"]} if made and made["images"] else {}
    return _found(numbers, clock)


def read_curves(file: Path) -> Curves:
    """Curves of a run by kind: {"train": {"step": [...], "loss": [...]}}, numbers not finite None.

    The train curve is empty where a run has ended before its first line.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    curves: Curves = {"train": {"step": [], "loss": []}}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        names = ["step", *(name for name in KEPT if name in own[0])]
        curves[kind] = {name: [_number(row.get(name)) for row in own] for name in names}
    return curves


def _costs(trainer: Trainer) -> dict[str, float]:
    """Parameters, and counted operations of the whole training where somebody counts them."""
    parameters = sum(parameter.numel() for parameter in trainer.module.parameters())
    images = trainer.config.optim.batch * trainer.step
    flops = trainer.flops_per_image() * images
    costs: dict[str, float] = {"parameters": parameters, "training images": images}
    return {**costs, "training teraFLOPs": flops / 1e12} if flops else costs


def _bits(trainer: GeneratorTrainer) -> dict[str, float]:
    """Of an image, and of one of its tokens; in a network that learns both ways each is named."""
    network, found = trainer.config.network, trainer.bits()
    num_tokens = network.grid[0] * network.grid[1]
    bits: dict[str, float] = {}
    for mode, value in found.items():
        way = f" ({mode})" if len(found) > 1 else ""
        bits |= {f"bits per image{way}": value, f"bits per token{way}": value / num_tokens}
    return bits


def _of_sweep(record: Record) -> Record:
    """The points of a sweep: what each setting costs and scores."""
    points, seconds = [], []
    for cell in record["cells"]:
        measures = {name: measure["value"] for name, measure in cell["measures"].items()}
        errors = {name: measure["error"] for name, measure in cell["measures"].items()}
        points.append({"title": cell["title"], "values": cell["values"], "measures": measures,
                       "errors": errors, "gigaFLOPs": cell["cost"]["gigaflops"]})  # fmt: skip
        seconds.append(cell["seconds"]["transformer"]["median"])
    return {**_found({}, {"seconds per image of points": seconds}), "points": points}


def _of_reconstructions(record: Record) -> Record:
    """The figures of the first tokenizer, without speeds, which stand under the clock."""
    figures = record["rows"][0]["figures"]
    speeds = {name: value for name, value in figures.items() if name.endswith("/s)")}
    return _found({k: v for k, v in figures.items() if k not in speeds}, speeds)


def _found(numbers: Mapping[str, Any], clock: Mapping[str, Any] | None = None) -> Record:
    return {
        "numbers": {name: _number(value) for name, value in numbers.items()},
        "clock": dict(clock or {}),
    }


def _number(value: Any) -> Any:
    """Five digits are kept; what is not finite is None."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
