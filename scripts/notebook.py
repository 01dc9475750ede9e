"""Writes `demo.ipynb`, for Colab, Kaggle or a notebook of one's own: `python scripts/notebook.py`.

Its cells stand here, where they can be read, compared and tested (tests/test_notebook.py).
"""

import json
from pathlib import Path

FILE = Path(__file__).parent.parent / "demo.ipynb"
# (kind, text); a line of code that begins with ! is typed in a shell
CELLS = [
    (
        "markdown",
        """
# MaskGIL, from nothing to pictures

A tokenizer turns pictures into grids of codes, a masked transformer learns to fill hidden codes
in, and a few parallel steps turn an empty grid into a picture. Everything here is trained on
drawings that the code makes itself: nothing is downloaded but the code and the packages it needs.

Eight minutes on two CPU cores, less on a GPU.
""",
    ),
    (
        "setup",
        """
import os

repository = ""  # address of this code, as `git clone` takes it; empty: the notebook lies in it
if repository and not os.path.exists("pyproject.toml"):
    !git clone --depth 1 {repository} MaskGIL
    %cd MaskGIL
if not os.path.exists("pyproject.toml"):
    raise SystemExit("Write the address of the code between the quotes above, and run this again.")
%pip install --quiet -e .
""",
    ),
    (
        "code",
        """
size = ""  # "loop.steps=20 data.num_images=256" shows the way in a minute, and noise
""",
    ),
    ("markdown", "**A tokenizer**, a line per hundred steps."),
    (
        "code",
        """
!python main.py MaskGIL/configs/demo/tokenizer.yaml {size}
""",
    ),
    ("markdown", "**A generator** of 1.1M parameters and 16 classes, on the tokenizer's codes."),
    (
        "code",
        """
!python main.py MaskGIL/configs/demo/generator.yaml {size}
""",
    ),
    (
        "markdown",
        "**Pictures.** The seed of a picture fixes its noise, whatever is drawn beside it.",
    ),
    (
        "code",
        """
from MaskGIL import Pipeline

pipe = Pipeline.from_pretrained("runs/demo/generator/weights")
circle = pipe(class_labels="red circle", generator=0).images[0]
circle.resize((256, 256), resample=0)
""",
    ),
    (
        "code",
        """
!python -m MaskGIL generate MaskGIL/configs/demo/pictures.yaml

from PIL import Image

Image.open("runs/demo/strip.png")
""",
    ),
    ("markdown", "**Repaint** what a mask covers: here the middle becomes a ring."),
    (
        "code",
        """
import numpy as np

mask = np.zeros((32, 32), bool)
mask[6:26, 6:26] = True
ring = pipe.inpaint(circle, mask, class_labels="blue ring").images[0]
ring.resize((256, 256), resample=0)
""",
    ),
    ("markdown", "**How training went**: `report.html` has all of it on one page."),
    (
        "code",
        """
!python main.py report=runs/demo/generator

Image.open("runs/demo/generator/curves.png")
""",
    ),
    (
        "markdown",
        """
On a machine of your own, `python -m MaskGIL play` opens a page to play with. Pictures of your own,
prompts and scores: see the README.
""",
    ),
]


def notebook() -> dict:
    """The notebook as its format (4.5) has it."""
    cells = []
    for number, (kind, text) in enumerate(CELLS):
        cell = {
            "cell_type": "markdown" if kind == "markdown" else "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.strip().splitlines(keepends=True),
        }
        cells.append(
            cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}
        )
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": python, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def written() -> str:
    """What the file holds."""
    return json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), "utf-8")
    print(f"wrote {FILE.name}")
