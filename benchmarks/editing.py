"""Inpainting by what it should do: the class that was asked under the mask, all else as it was.

Of drawn pictures all tokens that the object touches are hidden, so its shape, colour and size are,
and another class is asked. What then stands in the picture is read by Metrics/oracle.py, which is
not trained. No pixels are pasted back: what is read around the mask went through the tokenizer too.
Beside it stand the reconstructions, judged by the class that they have. Needs demo weights.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from paired import RESULTS, command, machine
from torch import Tensor

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.data.shapes import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    GRID,
    Object,
    Scene,
    Shapes,
    draw,
)
from MaskGIL.durable import replace_file, to_json
from MaskGIL.editing import touched
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling_keys import SamplingKeys, open_pipeline
from Metrics.intervals import interval_of_rate
from Metrics.oracle import read_objects
from Network.config import setting
from Network.files import fingerprint

CHUNK = 64  # images computed at once
BLUR = 2  # pixels around an object in which the background may be mixed with it
SIZE_STEP = 1 / (2 * GRID)  # between the sizes of the data, parts of the short side
NOTHING = Object("", "", math.nan, math.nan, math.nan)
Verdict = dict[str, bool]


@dataclass(frozen=True)
class EditingBenchmark(SamplingKeys):
    """What to measure. Settings of the sampler are null: as the weights have them."""

    weights: str = setting("runs/demo/generator/weights", "weights of the demo recipe")
    split: Literal["train", "val"] = setting("val", "pictures to edit; train, to try settings")
    num_images: int = setting(1024, "pictures, each edited once")
    margin: int = setting(1, "pixels around the object that are masked with it")
    out: str = setting("editing", "name of the record in benchmarks/results")

    def __post_init__(self):
        super().__post_init__()
        require_at_least("num_images", self.num_images, 1)
        require_at_least("margin", self.margin, 0)


def main(config: EditingBenchmark) -> None:
    pipe = open_pipeline(config)
    data = Shapes(config.split, config.num_images, pipe.image_size)
    scenes = [data.scene(index) for index in range(len(data))]
    pictures = drawn(scenes, data.size)
    masks = covered(scenes, data.size, config.margin)
    labels = torch.from_numpy(data.labels)
    asked = another_class(labels, config.seed)
    edited, redrawn = edit(pipe, config.seed, pictures, masks, asked)
    verdicts = judge(edited, scenes, asked)
    hidden = touched(masks, pipe.tokenizer.stride).float().mean()
    record = {
        "what": "inpainting of another class, read by the oracle; 95 % intervals (Wilson)",
        "command": " ".join(["python", "benchmarks/editing.py", *sys.argv[1:]]),
        "settings": to_dict(config),
        "sampler": to_dict(pipe.sampling),
        "network_sha256": fingerprint(pipe.network.state_dict()),
        "tokenizer_sha256": pipe.tokenizer.fingerprint,
        "machine": machine(),
        "hidden share of tokens": round(float(hidden), 4),
        "edited": shares(verdicts),
        "asked class, by what is to change": by_change(verdicts, labels, asked),
        "reconstructions": shares(judge(redrawn, scenes, labels)),
    }
    replace_file(RESULTS / f"{config.out}.json", to_json(record) + b"\n")
    print(table(record))


def edit(
    pipe: Pipeline, seed: int, pictures: Tensor, masks: Tensor, asked: Tensor
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) with asked classes (N,) in masks (N, H, W), and merely redrawn."""
    edited, redrawn = [], []
    for rows in torch.arange(len(pictures)).split(CHUNK):
        options = {"output_type": "uint8", "generator": image_seeds(seed, rows)}
        classes = asked[rows].tolist()
        made = pipe.inpaint(pictures[rows], masks[rows], classes, paste=False, **options)
        edited.append(made.images.cpu())
        redrawn.append(pipe.vary(pictures[rows], 0, **options).images.cpu())
    return torch.cat(edited), torch.cat(redrawn)


def drawn(scenes: list[Scene], size: tuple[int, int]) -> Tensor:
    """The pictures of scenes, (N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([draw(scene, *size) for scene in scenes])).permute(0, 3, 1, 2)


def covered(scenes: list[Scene], size: tuple[int, int], margin: int) -> Tensor:
    """Where objects and `margin` pixels around them are, (N, H, W) bool."""
    empty = [replace(scene, objects=()) for scene in scenes]
    objects = (drawn(scenes, size) != drawn(empty, size)).any(1)  # (N, H, W)
    return F.max_pool2d(objects[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] > 0


def another_class(labels: Tensor, seed: int) -> Tensor:
    """For each of labels (N,) one of the other classes at random, all alike."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, len(CLASSES), labels.shape, generator=generator)
    return (labels + steps) % len(CLASSES)


def judge(images: Tensor, scenes: list[Scene], asked: Tensor) -> list[Verdict]:
    """What images (N, 3, H, W) uint8 show of classes asked (N,) and of what scenes had."""
    found = read_objects(images.permute(0, 2, 3, 1))
    stays = background_stays(images, scenes, found)
    return list(map(verdict, scenes, found, stays.tolist(), asked.tolist()))


def verdict(scene: Scene, found: list[Object], background: bool, asked: int) -> Verdict:
    before, now = scene.objects[0], found[0] if found else NOTHING
    colour, shape = CLASSES[asked].split(" ")
    moved = max(abs(now.row - before.row), abs(now.column - before.column))
    others = {
        "background": background,
        "no other object": len(found) == 1,
        "place": moved < 1 / GRID,
    }
    return {
        "asked class": (now.colour, now.shape) == (colour, shape),
        "asked colour": now.colour == colour,
        "asked shape": now.shape == shape,
        "all others": all(others.values()),
        **others,
        "place, to half a token": moved < 1 / (2 * GRID),
        "size (hidden, not asked)": abs(now.size - before.size) < SIZE_STEP / 2,
    }


def background_stays(images: Tensor, scenes: list[Scene], found: list[list[Object]]) -> Tensor:
    """Whether each cell of a picture that no found object reaches is of its old background, (N,).

    A cell is a repeat of the pattern and the place of a token; its mean colour tells the kind.
    """
    size = (images.shape[2], images.shape[3])
    cell = min(size) // GRID
    means = F.avg_pool2d(images.float(), cell)  # (N, 3, h, w)
    distance = (means[:, None] - background_colours(size)[:, :, None, None]).square().sum(2)
    known = list(BACKGROUNDS)
    kinds = torch.tensor([known.index(scene.background.kind) for scene in scenes])
    same = distance.argmin(1) == kinds[:, None, None]  # (N, h, w)
    seen = [replace(scene, objects=tuple(each)) for scene, each in zip(scenes, found)]
    return (same | touched(covered(seen, size, BLUR), cell)).flatten(1).all(1)


def background_colours(size: tuple[int, int]) -> Tensor:
    """Mean colour of each kind of background, (kinds, 3)."""
    data = Shapes("train", 64, size)
    scenes = {scene.background.kind: scene for scene in map(data.scene, range(len(data)))}
    empty = [replace(scenes[kind], objects=()) for kind in BACKGROUNDS]
    return drawn(empty, size).float().mean((2, 3))


def shares(verdicts: list[Verdict]) -> dict[str, dict[str, float]]:
    """Of each verdict the share of pictures, with its interval."""
    return {name: share([each[name] for each in verdicts]) for name in verdicts[0]}


def share(values: list[bool]) -> dict[str, float]:
    """Share of n values and its 95 % interval."""
    count, part = len(values), sum(values) / len(values)
    facts = {"share": part, **interval_of_rate(part, count)._asdict()}
    return {**{name: round(value, 4) for name, value in facts.items()}, "count": count}


def by_change(verdicts: list[Verdict], labels: Tensor, asked: Tensor) -> dict[str, dict]:
    """Share of the asked class where colour, shape or both differ from what was there."""
    colours = len(COLOURS)
    groups = {
        "colour": labels // colours == asked // colours,
        "shape": labels % colours == asked % colours,
    }
    groups["both"] = ~(groups["colour"] | groups["shape"])
    return {
        name: share([each["asked class"] for each, chosen in zip(verdicts, rows) if chosen])
        for name, rows in groups.items()
    }


def table(record: dict) -> str:
    """The shares of edits, and of reconstructions beside them."""
    lines = []
    for name, edit in record["edited"].items():
        interval = f"({edit['low']:.1%} to {edit['high']:.1%})"
        redrawn = record["reconstructions"][name]["share"]
        lines.append(f"{name:26}{edit['share']:7.1%}  {interval:20}  redrawn {redrawn:6.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command(main, EditingBenchmark, "editing", __doc__ or ""))
