"""The embedded data set with captions: one to three coloured shapes, and how they lie.

Every caption is true of its picture, which is drawn by `shapes.py` from (seed, split, index)
alone. The objects of a picture have one of two sizes and a colour has one shade, so that what a
caption does not say is above all where things lie. `val` shows only combinations of shapes,
colours, relation and numbers that `train` never does.
H height, W width, N pictures, n objects of a picture.
"""

from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from MaskGIL.data.descriptions import GROUNDS, RELATIONS, Description, Group, sentences
from MaskGIL.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SPLITS,
    Background,
    Object,
    Scene,
    check_drawings,
    draw,
    rgb,
)

EDITION = 3  # grows when other pictures are drawn
# Of the groups of a scene, each as often as it stands here: of single objects there are few kinds
NUMBERS = ((1,), (1,), (2,), (3,), (1, 1), (1, 2), (2, 1))
SIZES = {1: (4, 6), 2: (4, 6), 3: (4,)}  # in halves of GRID, by the number of objects
RADIUS = {"circle": 0.5, "square": 0.58, "triangle": 0.61, "ring": 0.5}  # to the farthest corner
CAPTIONS = 2  # of a picture

# Plain ones are darker or lighter than any object, the others are those of `shapes.py`
_PLAIN = {"dark": (0.62, 0.20, 0.22), "light": (0.12, 0.08, 0.88)}
_GAP = 0.04  # between objects, in short sides
_CLEAR = 1.5  # a relation says the direction in which groups are so many times as far apart
_LAYOUTS = 256  # tried at once


class Scenes:
    """A data set of `num_images` drawn pictures with captions and without classes.

    `shapes` are one (height, width) or several, which the pictures have in turn. More pictures
    never change the first ones. Raises UserError for a split, number or size out of range;
    IndexError for an index that is.
    """

    classes: tuple[str, ...] = ()
    labels: NDArray[np.int64]

    def __init__(
        self,
        split: Literal["train", "val"],
        num_images: int,
        *shapes: tuple[int, int],
        seed: int = 0,
    ) -> None:
        for shape in shapes:
            check_drawings(split, num_images, shape, 1, seed)
        self.shapes, self.split, self.seed = shapes, split, seed
        self.labels = np.zeros(num_images, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def description(self, index: int) -> Description:
        """What the picture shows."""
        return _random_description(self._random(index, 0), held_out=self.split == "val")

    def captions(self, index: int) -> tuple[str, ...]:
        """CAPTIONS sentences that say it, of two groups one from the side of each."""
        random = self._random(index, 1)
        halves = np.array_split(sentences(self.description(index)), CAPTIONS)
        return tuple(str(random.choice(half)) for half in halves)

    def scene(self, index: int) -> Scene:
        """The scene of the picture, undrawn."""
        return random_scene(self.description(index), self.shape(index), self._random(index, 2))

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.shapes[index % len(self.shapes)]

    def image(self, index: int) -> Image.Image:
        """The picture, RGB."""
        return Image.fromarray(draw(self.scene(index), *self.shape(index)))

    def name(self, index: int) -> str:
        """What a message calls the picture: another one has another name."""
        return f"{self.split}/scene {EDITION}-{self.seed}-{index}"

    def _random(self, index: int, stream: int) -> Generator:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return np.random.default_rng((self.seed, SPLITS.index(self.split), index, stream, EDITION))


def random_scene(description: Description, size: tuple[int, int], random: Generator) -> Scene:
    """A scene that a description is true of, for pictures of `size` (height, width)."""
    diameter = random.choice(SIZES[description.num_objects]).item() / (2 * GRID)
    kinds = [group for group in description.groups for _ in range(group.number)]
    reach = np.array([RADIUS[kind.shape] * diameter for kind in kinds])
    sides = np.array(size) / min(size)  # height and width in short sides
    places = _places(random, reach, sides, description) / sides  # (n, 2)
    objects = (
        Object(kind.shape, kind.colour, row, column, diameter)
        for kind, (row, column) in zip(kinds, places.tolist())
    )
    return Scene(tuple(objects), background(description.ground))


def background(ground: str) -> Background:
    """What a word of GROUNDS means."""
    if ground in _PLAIN:
        colour = rgb(*_PLAIN[ground])
        return Background("plain", (colour, colour))
    hue = BACKGROUNDS[ground].hue
    return Background(ground, (rgb(hue, 0.14, 0.70), rgb(hue, 0.12, 0.80)))


def _random_description(random: Generator, held_out: bool) -> Description:
    """Any description with a background, on one side of the split."""
    while True:
        numbers = NUMBERS[random.integers(len(NUMBERS))]
        groups = tuple(
            Group(number, str(random.choice(list(COLOURS))), str(random.choice(list(SHAPES))))
            for number in numbers
        )
        relation = str(random.choice(list(RELATIONS))) if len(groups) == 2 else ""
        found = Description(groups, relation, str(random.choice(GROUNDS)))
        different = len({group[1:] for group in groups}) == len(groups)  # else they are one group
        if different and found.is_held_out == held_out:
            return found


def _places(
    random: Generator, reach: NDArray, sides: NDArray, description: Description
) -> NDArray[np.floating]:
    """Centres (n, 2) in short sides: the first of many layouts that is apart and as described."""
    margin = reach[:, None] + 0.02  # of the centre to the edge
    least, most = np.ceil(margin * GRID), np.floor((sides - margin) * GRID)
    while True:
        layouts = random.integers(least, most + 1, (_LAYOUTS, len(reach), 2)) / GRID
        fits = _are_apart(layouts, reach)
        if description.relation:
            axis = list(RELATIONS).index(description.relation)
            fits &= _are_related(layouts, reach, description.groups[0].number, axis)
        if fits.any():
            return layouts[fits.argmax()]


def _are_apart(layouts: NDArray, reach: NDArray) -> NDArray[np.bool_]:
    """Layouts (L, n, 2) -> (L,): no object touches another."""
    one, other = np.triu_indices(len(reach), 1)
    distance = np.linalg.norm(layouts[:, one] - layouts[:, other], axis=-1)
    return (distance >= reach[one] + reach[other] + _GAP).all(axis=1)


def _are_related(layouts: NDArray, reach: NDArray, number: int, axis: int) -> NDArray[np.bool_]:
    """Layouts (L, n, 2) -> (L,): the first `number` objects lie above or left of the others.

    All of each of the first ends before any of the others begins, and the groups are clearly
    farther apart in this direction than in the other one.
    """
    ends = (layouts[:, :number, axis] + reach[:number]).max(axis=1)
    begins = (layouts[:, number:, axis] - reach[number:]).min(axis=1)
    apart = layouts[:, number:].mean(axis=1) - layouts[:, :number].mean(axis=1)  # (L, 2)
    return (ends <= begins) & (apart[:, axis] >= _CLEAR * np.abs(apart[:, 1 - axis]))
