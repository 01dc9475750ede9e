"""`python -m MaskGIL generate`: pictures of classes, and how they came to be.

A grid of images, a strip with a column per decoding step, an animation of the grid, a map of the
confidence beside each image, and the tokens behind every step.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MaskGIL.classes import class_names
from MaskGIL.command import Flags
from MaskGIL.confidence_map import save_confidence
from MaskGIL.config import require_at_least
from MaskGIL.device import DTYPES
from MaskGIL.history import History, frames, sample_history, spread_steps, write_tokens
from MaskGIL.output import output_path
from MaskGIL.pictures import save_gif, save_grid, save_strip
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling_keys import SamplingKeys, open_pipeline, sampler_line
from Network.config import UserError, setting

SUFFIXES = {
    "out": ".png", "strip": ".png", "gif": ".gif", "confidence": ".png", "tokens": ".npz"
}  # fmt: skip
NAMES = "out, strip, gif, confidence and tokens"
CLASSES_SHOWN = 8  # where nobody names any
STRIP_ROWS = 8
STRIP_COLUMNS = 16
GIF_FRAMES = 64
COLUMNS = 8


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
    confidence: str = setting(
        "", "PNG file of all images, each beside the confidence that its tokens were drawn with"
    )
    tokens: str = setting(
        "", "NPZ file of the tokens behind each step (steps, images, rows, columns), and confidence"
    )
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
        raise UserError(f"{NAMES} are empty; name a file to write, out=grid.png.")
    paths = {key: output_path(key, value, SUFFIXES[key]) for key, value in given.items()}
    if len(set(paths.values())) < len(paths):
        raise UserError(f"Two of {NAMES} name the same file; give each its own.")
    pipe = open_pipeline(config)
    labels, columns = choose_labels(pipe, config)
    print(f"images     {len(labels)} of {label_names(pipe, labels)}, seed {config.seed}")
    print(sampler_lines(pipe))
    if flags.dry_run:
        return
    seeds = image_seeds(config.seed, torch.arange(len(labels), device=pipe.device))
    history = sample_history(pipe, labels, seeds)
    write_pictures(paths, pipe, history, columns, config.enlarge)
    if "tokens" in paths:
        write_tokens(paths["tokens"], history, labels, pipe.network.mask_id)
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


def write_pictures(
    paths: dict[str, Path], pipe: Pipeline, history: History, columns: int, enlarge: int
) -> None:
    """Write those of out, strip, gif and confidence that `paths` has."""
    num_steps = len(history.tokens)
    if "out" in paths:
        save_grid(history.images, paths["out"], columns, enlarge)
    if "strip" in paths:
        first = history.first(STRIP_ROWS)
        shown = frames(pipe, first, spread_steps(num_steps, STRIP_COLUMNS))
        save_strip(shown, paths["strip"], enlarge)
    if "gif" in paths:
        shown = frames(pipe, history, spread_steps(num_steps, GIF_FRAMES))
        save_gif(shown, paths["gif"], columns, enlarge)
    if "confidence" in paths:
        codes = pipe.tokenizer.codebook_size
        images, confidence = history.images, history.confidence
        save_confidence(images, confidence, codes, paths["confidence"], columns, enlarge)


def sampler_lines(pipe: Pipeline) -> str:
    """What a command that samples says of its sampler and its device."""
    precision = next(name for name, dtype in DTYPES.items() if dtype == pipe.dtype)
    return f"{sampler_line(pipe)}\ndevice     {pipe.device}, {precision}"


def label_names(pipe: Pipeline, labels: Tensor) -> str:
    """What people should read for labels (B,), neighbours that are alike once."""
    # The null label follows the classes
    names = [*class_names(pipe.classes, pipe.network.config.num_classes), "no class"]
    return ", ".join(names[label] for label in labels.unique_consecutive().tolist())
