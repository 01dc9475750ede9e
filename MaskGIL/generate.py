"""`python -m MaskGIL generate`: pictures of classes, and how they came to be.

A grid of images, a strip with a column per decoding step, and an animation of the grid.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MaskGIL.classes import class_names
from MaskGIL.command import Flags
from MaskGIL.config import require_at_least
from MaskGIL.data.crops import to_uint8
from MaskGIL.device import DTYPES
from MaskGIL.output import output_path
from MaskGIL.pictures import grey_out, save_gif, save_grid, save_strip
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling_keys import SamplingKeys, open_pipeline
from Network.config import UserError, setting

SUFFIXES = {"out": ".png", "strip": ".png", "gif": ".gif"}
CLASSES_SHOWN = 8  # where nobody names any
STRIP_ROWS = 8
STRIP_COLUMNS = 16
GIF_FRAMES = 64
COLUMNS = 8
BATCH = 64


@dataclass(frozen=True)
class GenerateConfig(SamplingKeys):
    """Pictures of classes. A picture that is there already is replaced."""

    class_labels: tuple[str, ...] = setting(
        (), "names or numbers of classes, a,b; empty: up to 8, spread over all"
    )
    num_images: int = setting(0, "images in all, the classes in equal shares; 0: one per class")
    out: str = setting("grid.png", "PNG file of all images; replaced if it is there")
    strip: str = setting(
        "", "PNG file of the decoding: a row per image (8 at most), 16 steps at most as columns"
    )
    gif: str = setting("", "GIF file of the decoding of all images")
    enlarge: int = setting(1, "pixels of the picture along a side of an image's pixel")

    def __post_init__(self):
        super().__post_init__()
        require_at_least("num_images", self.num_images, 0)
        require_at_least("enlarge", self.enlarge, 1)


def generate(config: GenerateConfig, flags: Flags) -> None:
    """Sample, write the pictures, and say which."""
    started = time.monotonic()
    given = {key: getattr(config, key) for key in SUFFIXES if getattr(config, key)}
    if not given:
        raise UserError("out, strip and gif are empty; name a file to write, out=grid.png.")
    paths = {key: output_path(key, value, SUFFIXES[key]) for key, value in given.items()}
    if len(set(paths.values())) < len(paths):
        raise UserError("Two of out, strip and gif name the same file; give each its own.")
    pipe = open_pipeline(config)
    labels, columns = choose_labels(pipe, config)
    print(f"images     {len(labels)} of {label_names(pipe, labels)}, seed {config.seed}")
    print(sampler_lines(pipe))
    if flags.dry_run:
        return
    seeds = image_seeds(config.seed, torch.arange(len(labels), device=pipe.device))
    parts = [decode_steps(pipe, *part) for part in zip(labels.split(BATCH), seeds.split(BATCH))]
    images = torch.cat([images for images, _ in parts])  # (B, 3, H, W)
    hidden = torch.cat([hidden for _, hidden in parts], 1)  # (steps, B, h, w)
    write_pictures(paths, images, hidden, columns, config.enlarge)
    print(f"wrote      {', '.join(map(str, paths.values()))}")
    print(f"seconds    {time.monotonic() - started:.1f}")


def choose_labels(pipe: Pipeline, config: GenerateConfig) -> tuple[Tensor, int]:
    """Labels (B,) of the images, class by class, and the columns of their grid.

    Raises UserError for an unknown class and for fewer images than classes.
    """
    num_classes, count = pipe.network.config.num_classes, config.num_images
    if config.class_labels:
        classes = pipe.labels(config.class_labels)
    elif num_classes:
        shown = min(CLASSES_SHOWN, num_classes, count or num_classes)
        classes = pipe.labels(np.linspace(0, num_classes - 1, shown).astype(int).tolist())
    else:
        classes, count = pipe.labels(None), count or CLASSES_SHOWN
    count = count or len(classes)
    if count < len(classes):
        raise UserError(
            f"num_images={count} is less than the {len(classes)} classes of class_labels; "
            "raise it or name fewer classes."
        )
    shares = torch.arange(count) % len(classes)  # equal but for one image
    each = -(-count // len(classes))
    columns = each if len(classes) > 1 and 1 < each <= 2 * COLUMNS else min(count, COLUMNS)
    return classes[shares.sort().values], columns


def decode_steps(pipe: Pipeline, labels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B,), seeds (B,) -> images (B, 3, H, W) uint8, and what each step left hidden.

    The latter is (steps, B, h, w). Tokens stay as they were revealed, so the images and this are
    the whole history: the grid of a step is the final one where it is not hidden.
    """
    hidden: list[Tensor] = []

    def on_step(step: int, tokens: Tensor, confidence: Tensor) -> None:
        hidden.append(tokens == pipe.network.mask_id)

    tokens = pipe.sample_tokens(labels, seeds, on_step=on_step)
    return to_uint8(pipe.pixels(tokens)), torch.stack(hidden)


def write_pictures(
    paths: dict[str, Path], images: Tensor, hidden: Tensor, columns: int, enlarge: int
) -> None:
    """Write those of out, strip and gif that `paths` has; arguments as `decode_steps` gives them.

    A partly decoded picture shows the final image, grey where its tokens were hidden.
    """
    if "out" in paths:
        save_grid(images, paths["out"], columns, enlarge)
    if "strip" in paths:
        rows = slice(STRIP_ROWS)
        steps = spread_steps(hidden, STRIP_COLUMNS)
        frames = [grey_out(images[rows], step[rows]) for step in steps]
        save_strip(frames, paths["strip"], enlarge)
    if "gif" in paths:
        frames = [grey_out(images, step) for step in spread_steps(hidden, GIF_FRAMES)]
        save_gif(frames, paths["gif"], columns, enlarge)


def spread_steps(hidden: Tensor, most: int) -> Tensor:
    """Of (steps, B, h, w) at most so many steps, evenly spread; the last one is among them."""
    count = min(most, len(hidden))
    chosen = (torch.arange(1, count + 1, device=hidden.device) * len(hidden)) // count - 1
    return hidden[chosen]


def sampler_lines(pipe: Pipeline) -> str:
    """What a command that samples says of its sampler and its device."""
    settings = pipe.sampling
    precision = next(name for name, dtype in DTYPES.items() if dtype == pipe.dtype)
    return (
        f"sampler    {len(pipe.plan())} steps, guidance {settings.guidance_scale:g}, "
        f"temperature {settings.temperature:g}\n"
        f"device     {pipe.device}, {precision}"
    )


def label_names(pipe: Pipeline, labels: Tensor) -> str:
    """What people should read for labels (B,), neighbours that are alike once."""
    # The null label follows the classes
    names = [*class_names(pipe.classes, pipe.network.config.num_classes), "no class"]
    return ", ".join(names[label] for label in labels.unique_consecutive().tolist())
