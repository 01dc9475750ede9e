"""The embedded data set: coloured shapes on soft backgrounds, drawn by numpy when asked for.

A scene follows from (seed, split, index) alone, so nothing is stored and nothing downloaded.
Places, sizes, shades and patterns are few, and fit a grid of 8x8 tokens: so a small codebook can
hold a picture, and a small network can learn to draw one within minutes on a CPU. The price: a
new picture often differs from one of 8,192 others by its exact shade alone.
H height, W width, N pictures; rows grow downwards.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from Network.config import UserError

EDITION = 2  # grows when other pictures are drawn: a token cache of the old ones does not fit then
Plane = NDArray[np.floating]  # one number per pixel (H, W)
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Distance = Callable[[Plane, Plane], Plane]


@dataclass(frozen=True)
class Object:
    """One shape. `row`, `column` place its centre of mass, as parts of the height and width.

    `size` is its diameter as a part of the short side; `rgb` None paints it as the table says.
    """

    shape: str
    colour: str
    row: float
    column: float
    size: float
    rgb: Colour | None = None


@dataclass(frozen=True)
class Background:
    """Two muted colours and the pattern that mixes them."""

    kind: str
    colours: tuple[Colour, Colour]


@dataclass(frozen=True)
class Scene:
    """What a picture shows. The first object is the largest and gives the label."""

    objects: tuple[Object, ...]
    background: Background


class Shapes:
    """A data set of `num_images` drawn pictures, each with one to `max_objects` objects.

    `size` is (height, width). `labels` (N,) int64 index `classes`, every class equally often in
    each run of 16 pictures. More pictures never change the first ones. Raises UserError for a
    split, number or size out of range; IndexError for an index that is.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]

    def __init__(
        self,
        split: Literal["train", "val"],
        num_images: int,
        size: tuple[int, int],
        max_objects: int = 1,
        seed: int = 0,
    ) -> None:
        check_drawings(split, num_images, size, max_objects, seed)
        self.size = size
        self.max_objects = max_objects
        self.classes = CLASSES
        self._key = (seed, SPLITS.index(split))
        self.labels = _even_labels(np.random.default_rng((*self._key, 0)), num_images)

    def __len__(self) -> int:
        return len(self.labels)

    def scene(self, index: int) -> Scene:
        """The scene of a picture, undrawn."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        random = np.random.default_rng((*self._key, index + 1))
        num_objects = int(random.integers(1, self.max_objects + 1))
        objects = _random_objects(random, int(self.labels[index]), num_objects, self.size)
        return Scene(objects, _random_background(random))

    def image(self, index: int) -> Image.Image:
        """The picture, RGB."""
        return Image.fromarray(draw(self.scene(index), *self.size))

    def name(self, index: int) -> str:
        """What a message calls the picture: another one has another name."""
        seed, split = self._key
        return f"{SPLITS[split]}/drawing {EDITION}-{seed}-{index}"

    def captions(self, index: int) -> tuple[str, ...]:
        """The sentence that describes the picture."""
        return (caption(self.scene(index)),)


def draw(scene: Scene, height: int, width: int) -> NDArray[np.uint8]:
    """Paint a scene: (H, W, 3), edges antialiased over one pixel, later objects on top."""
    short = min(height, width)
    row = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / short  # (H, 1)
    column = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / short  # (1, W)
    picture = _paint_background(scene.background, row, column)  # (H, W, 3)
    for item in scene.objects:
        down = (row - item.row * height / short) / item.size
        across = (column - item.column * width / short) / item.size
        distance = SHAPES[item.shape].distance(down, across) * (item.size * short)  # in pixels
        cover = np.clip(0.5 - distance, 0, 1)[:, :, None]  # (H, W, 1)
        paint = np.asarray(item.rgb or colour_of(item.colour), np.float32)
        picture += cover * (paint - picture)
    return (picture * 255 + 0.5).astype(np.uint8)


def caption(scene: Scene) -> str:
    """E.g. "a red circle at the top left and a blue ring in the centre on a striped background"."""
    objects = [f"a {item.colour} {item.shape} {_place(item)}" for item in scene.objects]
    return f"{' and '.join(objects)} on a {scene.background.kind} background"


def colour_of(name: str) -> Colour:
    """The colour that objects of this name vary around."""
    return rgb(*COLOURS[name])


# ------------------------------------------------------------------------------------ shapes
def _round_max(a: Plane, b: Plane, radius: float = 0.06) -> Plane:
    """The larger of two distances, which rounds the corner where they meet."""
    return (a + b + np.sqrt(np.square(a - b) + radius**2)) / 2


def _circle(down: Plane, across: Plane) -> Plane:
    return np.hypot(down, across) - 0.5


def _ring(down: Plane, across: Plane) -> Plane:
    return np.abs(np.hypot(down, across) - 0.37) - 0.13


def _square(down: Plane, across: Plane) -> Plane:
    return _round_max(np.abs(down), np.abs(across)) - 0.44


def _triangle(down: Plane, across: Plane) -> Plane:
    flanks = _round_max(across, -across) * 0.75**0.5 - down / 2  # equilateral, point up
    return _round_max(down, flanks) - 0.33


@dataclass(frozen=True)
class Shape:
    """Signed distance to the edge, in diameters from the centre of mass, and the farthest reach."""

    distance: Distance
    reach: float


SHAPES = {
    "circle": Shape(_circle, 0.5),
    "square": Shape(_square, 0.5),
    "triangle": Shape(_triangle, 0.6),
    "ring": Shape(_ring, 0.5),
}
COLOURS = {  # hue in turns, saturation, value
    "red": (0.005, 0.80, 0.90),
    "green": (0.390, 0.76, 0.80),
    "blue": (0.600, 0.78, 0.90),
    "yellow": (0.128, 0.80, 0.96),
}
SHADES = (0.70, 1.0)  # parts of the value, each varied a little
CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
SPLITS = ("train", "val")


# ------------------------------------------------------------------------------- backgrounds
REPEATS = 8  # of a pattern along the short side: as many as tokens, so that one code fills it


@dataclass(frozen=True)
class Pattern:
    """A hue in turns, and what mixes its dark and light: phases (H, 1), (1, W) -> (H, W)."""

    hue: float
    mix: Callable[[Plane, Plane], Plane]


BACKGROUNDS = {
    "plain": Pattern(0.12, lambda down, across: np.zeros_like(down + across)),
    "striped": Pattern(0.62, lambda down, across: 2 * np.sin(down) + np.zeros_like(across)),
    "checked": Pattern(0.37, lambda down, across: 3 * np.sin(down) * np.sin(across)),
    "dotted": Pattern(0.87, lambda down, across: 2 * (np.sin(down) + np.sin(across)) - 1.5),
}


def _paint_background(background: Background, row: Plane, column: Plane) -> Plane:
    turn = np.float32(2 * np.pi * REPEATS)
    mix = BACKGROUNDS[background.kind].mix(turn * row, turn * column)
    dark, light = np.asarray(background.colours, np.float32)
    return dark + (np.clip(mix, -1, 1) / 2 + 0.5)[:, :, None] * (light - dark)


def _random_background(random: Generator) -> Background:
    kind = str(random.choice(list(BACKGROUNDS)))
    hue = BACKGROUNDS[kind].hue
    return Background(kind, (rgb(hue, 0.14, 0.70), rgb(hue, 0.12, 0.80)))


# ----------------------------------------------------------------------------- random scenes
GRID = 8  # places come in parts of the short side, diameters in halves of it: few codes draw all
SIZES = {1: ((6, 7, 8), ()), 2: ((6,), (4, 5)), 3: ((5,), (4,))}  # of the first, of the others
MARGIN = {1: 3 / GRID, 2: 0, 3: 0}  # a single object stays near the centre
_LAYOUTS = 256  # tried at once; about one in eleven keeps three objects apart


def _random_objects(
    random: Generator, label: int, number: int, size: tuple[int, int]
) -> tuple[Object, ...]:
    labels = [label, *random.integers(len(CLASSES), size=number - 1)]
    names = [CLASSES[label].split(" ") for label in labels]
    first, others = SIZES[number]
    sizes = np.append(random.choice(first, 1), random.choice(others, number - 1)) / (2 * GRID)
    reach = sizes * [SHAPES[shape].reach for _, shape in names]
    sides = np.array(size) / min(size)  # height and width in short sides
    places = _places(random, reach, sides, MARGIN[number]) / sides
    return tuple(
        Object(shape, colour, row, column, diameter, shade(random, colour))
        for (colour, shape), (row, column), diameter in zip(names, places.tolist(), sizes.tolist())
    )


def _places(random: Generator, reach: NDArray, sides: NDArray, least: float) -> NDArray:
    """Centres (objects, 2) inside the picture: of many layouts the first without overlap."""
    margin = np.maximum(reach[:, None] + 0.02, least)  # of the centre to the edge
    first, last = np.ceil(margin * GRID), np.floor((sides - margin) * GRID)
    layouts = random.integers(first, last + 1, (_LAYOUTS, len(reach), 2)) / GRID
    first, second = np.triu_indices(len(reach), 1)
    apart = np.linalg.norm(layouts[:, first] - layouts[:, second], axis=-1)
    slack = (apart - reach[first] - reach[second] - 0.03).min(axis=1, initial=np.inf)
    return layouts[np.argmax(np.minimum(slack, 0))]  # or the least overlap, should all overlap


def shade(random: Generator, colour: str) -> Colour:
    """A random one of the colours that a name means."""
    hue, saturation, value = COLOURS[colour]
    return rgb(hue, saturation, value * (random.choice(SHADES) - 0.04 * random.random()))


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """A hue in turns, saturation and value in [0, 1] as a colour."""
    return colorsys.hsv_to_rgb(hue % 1, saturation, value)


def _even_labels(random: Generator, num_images: int) -> NDArray[np.int64]:
    """A new order of all classes for each 16 pictures, so that every class comes equally often."""
    rounds = -(-num_images // len(CLASSES))
    return random.random((rounds, len(CLASSES))).argsort(axis=1).reshape(-1)[:num_images]


def _place(item: Object) -> str:
    rows = "top" if item.row < 0.42 else "bottom" if item.row > 0.58 else ""
    columns = "left" if item.column < 0.42 else "right" if item.column > 0.58 else ""
    if not rows and not columns:
        return "in the centre"
    return f"at the {rows} {columns}".rstrip() if rows else f"on the {columns}"


def check_drawings(
    split: str, num_images: int, size: tuple[int, int], max_objects: int, seed: int
) -> None:
    """Raise UserError for what a drawn data set cannot have."""
    if split not in SPLITS:
        raise UserError(f"The shapes have no split {split!r}; choose {' or '.join(SPLITS)}.")
    if num_images < 1:
        raise UserError(f"Asked for {num_images} shapes pictures; num_images must be at least 1.")
    if min(size) < 16:
        raise UserError(f"A shapes picture of size {size} is too small; use at least 16 x 16.")
    if max_objects not in SIZES:
        raise UserError(f"max_objects is {max_objects}; a shapes picture holds 1 to {len(SIZES)}.")
    if seed < 0:
        raise UserError(f"The seed of the shapes is {seed}; use 0 or more.")
