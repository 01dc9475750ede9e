"""Draws images/scenes.png, what the text-conditional generator of scenes makes of prompts.

`python scripts/scenes_picture.py runs/scenes/generator/weights images/scenes.png`: three prompts of
combinations that training never showed, each in three aspect ratios; a drawing of which a part is
drawn anew by another prompt; one that goes on to the right. Seed 0, nothing chosen.
"""

import sys
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from MaskGIL import Pipeline
from MaskGIL.data.descriptions import read_sentence
from MaskGIL.data.scenes import random_scene
from MaskGIL.data.shapes import draw

PROMPTS = (
    "two red circles above a blue square on a dark background",
    "a light background with a red circle left of two green triangles",
    "a green ring below a yellow circle on a striped background",
)
SHAPES = ((32, 32), (32, 48), (48, 32))  # height, width
GIVEN = "a red square above a blue ring on a light background"
PAINTED = "a red square above a green triangle on a light background"
BEGUN = "a blue circle on a dotted background"
LONGER = "a blue circle left of a yellow triangle on a dotted background"
GREY = 128


def main(weights: str, out: str) -> None:
    """Write the picture that `weights` draw to `out`."""
    pipe = Pipeline.from_pretrained(weights)
    rows = [_drawn(pipe, prompt) for prompt in PROMPTS]
    rows += [_repainted(pipe), _extended(pipe)]
    figure = Figure(figsize=(8.4, 1.75 * len(rows)), layout="constrained")
    for place, (text, pictures) in zip(figure.subfigures(len(rows), 1), rows):
        widths = [1.6, *(picture.width / 32 for picture in pictures)]
        axes = place.subplots(1, len(widths), width_ratios=widths)
        axes[0].text(0, 0.5, textwrap.fill(text, 26), va="center", fontsize=9)
        for axis, picture in zip(axes[1:], pictures):
            axis.imshow(picture, interpolation="nearest")
        for axis in axes:
            axis.axis("off")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _drawn(pipe: Pipeline, prompt: str) -> tuple[str, list[Image.Image]]:
    """One picture of a prompt in each shape, and two more squares."""
    seeds = {shape: [0, 1] if shape == SHAPES[0] else [0] for shape in SHAPES}
    pictures: list[Image.Image] = []
    for (height, width), each in seeds.items():
        asked = {"prompt": [prompt] * len(each), "height": height, "width": width}
        pictures += pipe(**asked, generator=each).images
    return prompt, pictures


def _repainted(pipe: Pipeline) -> tuple[str, list[Image.Image]]:
    """A true drawing, what is left of it, and two ways in which the lower half is drawn anew."""
    given = _true(GIVEN)
    mask = Image.new("L", given.size)
    mask.paste(255, (0, given.height // 2, *given.size))
    seen = Image.composite(Image.new("RGB", given.size, (GREY,) * 3), given, mask)
    found = pipe.inpaint([given] * 2, [mask] * 2, prompt=PAINTED, generator=[0, 1]).images
    return f"lower half drawn anew: {PAINTED}", [given, seen, *found]


def _extended(pipe: Pipeline) -> tuple[str, list[Image.Image]]:
    """A true drawing, and two ways in which it goes on."""
    given = _true(BEGUN)
    found = pipe.outpaint([given] * 2, prompt=LONGER, right=16, generator=[0, 1]).images
    return f"extended to the right: {LONGER}", [given, *found]


def _true(sentence: str) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(draw(random_scene(read_sentence(sentence), SHAPES[0], random), 32, 32))


if __name__ == "__main__":
    main(*sys.argv[1:])
