"""`python -m MaskGIL generate`: pictures of classes or prompts, and how they came to be.

A grid of images, a strip with a column per decoding step, an animation of the grid, a map of the
confidence beside each image, the tokens behind every step, and a folder with each image alone.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from MaskGIL.command import Flags, notes
from MaskGIL.confidence_map import save_confidence
from MaskGIL.config import require_at_least
from MaskGIL.device import DTYPES
from MaskGIL.history import History, frames, sample_history, spread_steps, write_tokens
from MaskGIL.output import new_folder, output_path
from MaskGIL.picture_folder import PictureFolder
from MaskGIL.pictures import save_gif, save_grid, save_strip
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling_keys import (
    SamplingKeys,
    check_asked,
    open_pipeline,
    sampler_line,
)
from MaskGIL.subjects import choose_subjects
from MaskGIL.values import show_value
from Network.config import UserError, setting

SUFFIXES = {
    "out": ".png", "strip": ".png", "gif": ".gif", "confidence": ".png", "tokens": ".npz"
}  # fmt: skip
NAMES = "out, strip, gif, confidence and tokens"
MOST_SHOWN = 2048  # images in a picture of all
STRIP_ROWS = 8
STRIP_COLUMNS = 16
GIF_FRAMES = 64


@dataclass(frozen=True)
class GenerateConfig(SamplingKeys):
    """Pictures of classes or prompts. A picture that is there already is replaced."""

    class_labels: tuple[str, ...] = setting(
        (), "names or numbers of classes, a,b; empty: up to 8, spread over all"
    )
    prompt: str = setting(
        "", "of weights that know prompts: what to draw, one text, commas and all"
    )
    prompts: str = setting(
        "", "instead a file of prompts: one a line, GenEval's .jsonl or MJHQ-30K's .json"
    )
    negative_prompt: str = setting("", "text that guidance leads away from; empty: from no text")
    num_images: int = setting(
        0,
        "images in all, the classes in equal shares, of prompts images of each; 0: one per class "
        "or prompt",
    )
    seeds: tuple[int, ...] = setting(
        (), "a seed for each image, a,b, in the place of seed; empty: they follow from seed"
    )
    height: int = setting(0, "height of the images in pixels; 0: as the weights learned")
    width: int = setting(0, "as height")
    out: str = setting("grid.png", "PNG file of all images; replaced if it is there; empty: none")
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
    images: str = setting(
        "",
        "new folder for each image as a PNG of its own, by the id of its prompt, where GenEval and "
        "MJHQ-30K look for theirs; with out= empty any number of images; empty: none",
    )
    enlarge: int = setting(1, "pixels of the picture along a side of an image's pixel")

    def __post_init__(self):
        super().__post_init__()
        require_at_least("num_images", self.num_images, 0)
        require_at_least("height", self.height, 0)
        require_at_least("width", self.width, 0)
        require_at_least("enlarge", self.enlarge, 1)
        if self.prompt and self.prompts:
            raise UserError("prompt and prompts both say what to draw; leave one of them out.")
        if self.seed and self.seeds:
            raise UserError("seed has no effect beside seeds; leave one of them out.")


def generate(config: GenerateConfig, flags: Flags) -> None:
    """Sample, write the pictures, and say which."""
    started = time.monotonic()
    paths = _paths(config)
    folder = new_folder("images", config.images) if config.images else None
    pipe = open_pipeline(config, config.height, config.width)
    grid = pipe.grid(config.height or None, config.width or None)
    subjects = choose_subjects(pipe, config)
    check_asked(config, pipe, config.negative_prompt, grid, subjects.asks)
    _check_count(config, len(subjects), bool(paths))
    with notes():
        subjects.condition[:1]  # a text encoder that cannot be had is told now
        told = f"seeds {show_value(config.seeds)}" if config.seeds else f"seed {config.seed}"
        print(f"images     {len(subjects)} of {subjects.told}, {told}")
        print(sampler_lines(pipe, grid, subjects.asks))
        if flags.dry_run:
            return
        pictures = PictureFolder(folder, subjects.prompts, subjects.each) if folder else None
        seeds = pipe.seeds(config.seeds or config.seed, len(subjects))
        kept = []
        for part in sample_history(pipe, subjects.condition, seeds, subjects.null, grid):
            if pictures:
                pictures.add(part.images)
            if paths:
                kept.append(part)
    if paths:
        history = History.cat(kept)
        write_pictures(paths, pipe, history, subjects.columns, config.enlarge)
        if "tokens" in paths:
            write_tokens(paths["tokens"], history, subjects.condition, pipe.network.mask_id)
    print(f"wrote      {', '.join(map(str, [*paths.values(), *filter(None, [folder])]))}")
    print(f"seconds    {time.monotonic() - started:.1f}")


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


def sampler_lines(pipe: Pipeline, grid: tuple[int, int] | None = None, asks: bool = True) -> str:
    """What a command that samples says of its sampler and its device."""
    precision = next(name for name, dtype in DTYPES.items() if dtype == pipe.dtype)
    return f"{sampler_line(pipe, grid, asks)}\ndevice     {pipe.device}, {precision}"


def _paths(config: GenerateConfig) -> dict[str, Path]:
    """Where to write what is asked for. Raises UserError for nothing, and for two in one file."""
    given = {key: getattr(config, key) for key in SUFFIXES if getattr(config, key)}
    if not given and not config.images:
        raise UserError(f"{NAMES} and images are empty; name a file to write, out=grid.png.")
    paths = {key: output_path(key, value, SUFFIXES[key]) for key, value in given.items()}
    if len(set(paths.values())) < len(paths):
        raise UserError(f"Two of {NAMES} name the same file; give each its own.")
    return paths


def _check_count(config: GenerateConfig, count: int, keep: bool) -> None:
    """Raise UserError for another number of seeds, and for more images than a picture can hold."""
    if config.seeds and len(config.seeds) != count:
        raise UserError(
            f"seeds has {len(config.seeds)} for {count} images; give one for each, or seed alone."
        )
    if keep and count > MOST_SHOWN:
        raise UserError(
            f"{count:,} images are too many for one picture, {MOST_SHOWN:,} at most; write each on "
            "its own, out= images=FOLDER."
        )
