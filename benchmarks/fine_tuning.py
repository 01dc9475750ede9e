"""Fine-tuning on two new classes beside training on them from scratch: the same steps, three seeds.

Draws pictures of 14 of the demo's classes and of the two others into folders, trains the demo's
network on the 14 for 1,000 steps, then runs a study on the two: what begins with those weights has
a new class table and is otherwise the same run. Needs the demo's tokenizer, which has seen all 16.
Everything lies in `folder`; running it again goes on.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paired import command

from MaskGIL.config import load_config, require_at_least
from MaskGIL.data.shapes import CLASSES, Shapes
from MaskGIL.durable import replace_file
from Network.config import setting
from Trainer.config import RunConfig
from Trainer.study import run_study
from Trainer.vit import GeneratorTrainer

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "MaskGIL/configs/demo/generator.yaml"
NEW = ("red triangle", "yellow ring")  # whose colours and whose shapes the other classes have too
OLD = tuple(name for name in CLASSES if name not in NEW)
SIDE = 32


@dataclass(frozen=True)
class FineTuningBenchmark:
    """What to measure."""

    folder: str = setting("runs/studies/fine-tuning", "folder of pictures and runs")
    tokenizer: str = setting("runs/demo/tokenizer/weights", "weights of the demo's tokenizer")
    old_steps: int = setting(1000, "steps on the 14 classes")
    new_steps: int = setting(200, "steps on the two others")
    pictures: int = setting(256, "training pictures of a class; an eighth as many validate")
    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds of either way")
    workers: int = setting(0, "runs at once, each a process")
    device: str = setting("auto", "auto, cuda, mps or cpu")

    def __post_init__(self):
        require_at_least("pictures", self.pictures, 8)


def main(config: FineTuningBenchmark) -> None:
    folder = Path(config.folder)
    for name, classes in (("old", OLD), ("new", NEW)):
        draw(folder / "pictures" / name, classes, config.pictures)
    GeneratorTrainer(before(config)).fit()
    run_study(study(config))
    for suffix, place in (("json", "benchmarks/results"), ("png", "images")):
        target = ROOT / place / f"fine-tuning.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, (folder / "new" / f"study.{suffix}").read_bytes())


def draw(folder: Path, classes: Sequence[str], count: int) -> None:
    """FOLDER/{train,val}/CLASS/*.png of these classes: `count` of each to train on."""
    splits: dict[Literal["train", "val"], int] = {"train": count, "val": count // 8}
    for split, number in splits.items():
        drawn = Shapes(split, number * len(CLASSES), (SIDE, SIDE))
        for row, label in enumerate(drawn.labels):
            name = CLASSES[label]
            file = folder / split / name / f"{row}.png"
            if name in classes and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                drawn.image(row).save(file)


def before(config: FineTuningBenchmark) -> RunConfig:
    """The run on the 14 classes."""
    words = [*shared(config, "old"), f"network.num_classes={len(OLD)}"]
    words += [f"loop.steps={config.old_steps}", "loop.validate_every=250", "loop.log_every=50"]
    return load_config(RunConfig, DEMO, words)


def study(config: FineTuningBenchmark) -> RunConfig:
    """The runs on the two others."""
    weights = Path(config.folder) / "old" / "weights"
    words = [*shared(config, "new"), f"network.num_classes={len(NEW)}", "job=study"]
    words += [f"study.arms=from scratch,fine-tuned init_from={weights}"]
    words += [f"study.seeds={','.join(map(str, config.seeds))}", f"study.workers={config.workers}"]
    words += [f"loop.steps={config.new_steps}", "loop.validate_every=20", "loop.log_every=20"]
    return load_config(RunConfig, DEMO, words)


def shared(config: FineTuningBenchmark, name: str) -> Iterator[str]:
    folder = Path(config.folder)
    yield from (f"out_dir={folder / name}", f"data.cache={folder / 'cache' / name}")
    yield from ("data.source=folder", f"data.path={folder / 'pictures' / name}")
    yield from (f"data.image_size={SIDE}", f"tokenizer.weights={config.tokenizer}")
    yield from ("loop.tracker=none", "loop.sample_every=0", "loop.save_every=100000")
    yield from ("precision=fp32", f"device={config.device}")


if __name__ == "__main__":
    sys.exit(command(main, FineTuningBenchmark, "fine_tuning", __doc__ or ""))
