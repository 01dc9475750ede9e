"""Reads drawings back: which objects, where, how large, in which colour, on which background.

Nothing is trained. Vivid pixels of one hue that hang together are an object; its shape is the one
whose drawing of the same area at the same centre fits best. Area and centre survive blur, so the
reading does too. N pictures, H height, W width.
"""

from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskGIL.data.descriptions import GROUNDS, RELATIONS
from MaskGIL.data.scenes import background
from MaskGIL.data.shapes import CLASSES, COLOURS, SHAPES, Object, Scene, colour_of, draw

Floats = NDArray[np.floating]
Labelled = tuple[NDArray[np.int32], int]

VIVID = 0.23  # distance of a colour from grey: backgrounds stay below 0.17, objects above 0.29
AREAS = (0.012, 0.5)  # least and most of the squared short side; drawn are 0.034 to 0.20
WORST_FIT = 0.4  # wrongly covered area over the area of the object; 0.3 after a strong blur
WORST_GROUND = 0.08  # mean distance of the background's pixels; less after a strong blur
BLURS = (1.0, 2.5, 5.0)  # widths of the edge tried, in parts of 1/64 of the short side


class Attributes(NamedTuple):
    """Main object of each picture, NaN where none is seen: parts of the picture, rgb in [0, 1]."""

    row: Floats  # (N,)
    column: Floats  # (N,)
    size: Floats  # (N,)
    rgb: Floats  # (N, 3)


def read_objects(images: Any) -> list[list[Object]]:
    """The objects of each picture, largest first.

    images (N, H, W, 3) uint8, an array or a tensor in main memory. `rgb` of an object is the mean
    colour of its inside.
    """
    return [_read(picture) for picture in _pictures(images)]


def classify(images: Any) -> NDArray[np.int64]:
    """Index into CLASSES of the largest object of each picture, (N,); -1 where none is seen."""
    return np.array([class_of(objects) for objects in read_objects(images)], dtype=np.int64)


def class_of(objects: list[Object]) -> int:
    """Index into CLASSES of the largest of the objects that `read_objects` saw; -1 for none."""
    return CLASSES.index(f"{objects[0].colour} {objects[0].shape}") if objects else -1


def read_grounds(images: Any) -> list[str]:
    """The word of GROUNDS for the background of each picture (N, H, W, 3) uint8; "" for none."""
    return [_ground(picture) for picture in _pictures(images)]


def relation_of(first: list[Object], second: list[Object], height: int, width: int) -> str:
    """How some objects of a picture lie to others: above, left of, their inverses, or "".

    It is told of the direction in which their means are farther apart, and where every one of the
    first comes before every one of the second.
    """
    one, other = (
        np.array([(item.row * height, item.column * width) for item in items])
        for items in (first, second)
    )
    axis = int(np.abs(other.mean(axis=0) - one.mean(axis=0)).argmax())
    relation = list(RELATIONS)[axis]
    if one[:, axis].max() < other[:, axis].min():
        return relation
    return RELATIONS[relation] if other[:, axis].max() < one[:, axis].min() else ""


def attributes(images: Any) -> Attributes:
    """Position, size and colour of the largest object of each picture."""
    return _attributes(read_objects(images))


def spread_ratio(samples: Any, sample_labels: Any, data: Any, data_labels: Any) -> dict[str, float]:
    """Variety of the samples of a class over the variety of its data: 1 is right, 0 is none.

    Samples and data (N, H, W, 3) uint8, labels (N,). For "position", "size" and "colour": the
    within-class standard deviation of the samples over that of the data, averaged over classes.
    Only pictures that show their label count; NaN where no class has two of them on either side.
    """
    return objects_spread_ratio(
        read_objects(samples), sample_labels, read_objects(data), data_labels
    )


def objects_spread_ratio(
    samples: list[list[Object]], sample_labels: Any, data: list[list[Object]], data_labels: Any
) -> dict[str, float]:
    """`spread_ratio` of pictures that `read_objects` has read, so that none need stay in memory."""
    sample_spread = _spread(samples, np.asarray(sample_labels))
    data_spread = _spread(data, np.asarray(data_labels))
    shared = sorted(sample_spread.keys() & data_spread.keys())
    if not shared:
        return dict.fromkeys(("position", "size", "colour"), float("nan"))
    ratios = np.mean([sample_spread[label] / data_spread[label] for label in shared], axis=0)
    return dict(zip(("position", "size", "colour"), ratios.tolist()))


def _spread(objects: list[list[Object]], labels: NDArray) -> dict[int, Floats]:
    """Standard deviations (position, size, colour) of each class that is seen at least twice."""
    seen = _attributes(objects)
    right = np.array([class_of(found) for found in objects]) == labels
    values = np.column_stack([seen.row, seen.column, seen.size, seen.rgb])  # (N, 6)
    spread = {}
    for label in np.unique(labels[right]).tolist():
        members = values[right & (labels == label)]
        if len(members) > 1:
            variance = members.var(axis=0, ddof=1)
            parts = variance[:2].sum(), variance[2], variance[3:].sum()
            spread[label] = np.sqrt(parts)
    return spread


def _attributes(objects: list[list[Object]]) -> Attributes:
    nothing = Object("", "", np.nan, np.nan, np.nan, (np.nan, np.nan, np.nan))
    main = [found[0] if found else nothing for found in objects]
    row, column, size = np.array([(m.row, m.column, m.size) for m in main]).reshape(-1, 3).T
    return Attributes(row, column, size, np.array([m.rgb for m in main]).reshape(-1, 3))


def _pictures(images: Any) -> Floats:
    images = np.asarray(images)
    assert images.dtype == np.uint8, images.dtype
    assert images.ndim == 4, images.shape
    assert images.shape[-1] == 3, images.shape
    return images.astype(np.float32) / 255


# ----------------------------------------------------------------------------- one picture
def _read(picture: Floats) -> list[Object]:
    """The objects of picture (H, W, 3) in [0, 1], largest first."""
    short = min(picture.shape[:2])
    smooth = ndimage.gaussian_filter(picture, (short / 90, short / 90, 0))
    chroma = _chroma(smooth)  # (H, W, 3)
    vivid = np.linalg.norm(chroma, axis=-1) > VIVID  # (H, W)
    nearest = (chroma @ _hues().T).argmax(axis=-1)  # (H, W)
    found = []
    for number, colour in enumerate(COLOURS):
        parts, num_parts = cast(Labelled, ndimage.label(vivid & (nearest == number)))
        for part in range(1, num_parts + 1):
            region = parts == part
            if AREAS[0] <= region.sum() / short**2 <= AREAS[1]:
                found.append(_fit(smooth, region, vivid & ~region, colour))
    return sorted(filter(None, found), key=lambda item: -item.size)


def _ground(picture: Floats) -> str:
    """The background that pixels of picture (H, W, 3) far from vivid ones come nearest to."""
    height, width = picture.shape[:2]
    reach = max(2, min(height, width) // 16)
    vivid = np.linalg.norm(_chroma(picture), axis=-1) > VIVID
    free = ~_grown(vivid, reach)
    if not free.any():
        return ""
    distances = {
        ground: float(np.abs(picture - _empty(ground, height, width))[free].mean())
        for ground in GROUNDS
    }
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= WORST_GROUND else ""


def _fit(picture: Floats, region: NDArray, others: NDArray, colour: str) -> Object | None:
    """The shape that explains a region (H, W) best; None if none does."""
    height, width = region.shape
    short = min(height, width)
    cover, rgb = _cover(picture, region, others)
    area = cover.sum()
    if area == 0:
        return None
    row = (cover.sum(axis=1) @ (np.arange(height) + 0.5)) / area
    column = (cover.sum(axis=0) @ (np.arange(width) + 0.5)) / area
    down = np.arange(height)[:, None] + 0.5 - row
    across = np.arange(width)[None, :] + 0.5 - column
    fits = []
    for shape, unit_area in _unit_areas().items():
        size = np.sqrt(area / unit_area)  # in pixels
        distance = SHAPES[shape].distance(down / size, across / size) * size
        for blur in BLURS:
            drawn = np.clip(0.5 - distance / (blur * short / 64), 0, 1)
            fits.append((float(np.abs(drawn - cover).sum() / area), shape, float(size)))
    error, shape, size = min(fits)
    if error > WORST_FIT:
        return None
    return Object(shape, colour, float(row / height), float(column / width), size / short, rgb)


def _cover(
    picture: Floats, region: NDArray, others: NDArray
) -> tuple[Floats, tuple[float, float, float]]:
    """How much of each pixel the object covers, (H, W) in [0, 1], and the colour of its inside.

    A pixel at the edge is a mixture of object and background; its place on the line from one
    colour to the other is its cover.
    """
    reach = max(2, min(region.shape) // 16)
    near = _grown(region, reach)
    around = _grown(near, reach) & ~near & ~others
    inside = ~_grown(~region, 1)
    inside = inside if inside.any() else region
    rgb = picture[inside].mean(axis=0)
    ground = np.median(picture[around if around.any() else ~region], axis=0)
    line = rgb - ground
    cover = (picture - ground) @ line / max(line @ line, 0.01)
    cover = np.clip((cover - 0.15) / 0.7, 0, 1) * (near & ~others)  # background texture is not it
    return cover, tuple(rgb.tolist())


def _grown(region: NDArray, pixels: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(region, iterations=pixels), dtype=np.bool_)


def _chroma(colours: Floats) -> Floats:
    """What is left of colours (..., 3) without their grey."""
    return colours - colours.mean(axis=-1, keepdims=True)


@lru_cache(maxsize=64)
def _empty(ground: str, height: int, width: int) -> Floats:
    return _pictures(draw(Scene((), background(ground)), height, width)[None])[0]


@cache
def _hues() -> Floats:
    """Direction of each colour from grey, (colours, 3)."""
    chroma = _chroma(np.array([colour_of(name) for name in COLOURS], dtype=np.float32))
    return chroma / np.linalg.norm(chroma, axis=-1, keepdims=True)


@cache
def _unit_areas() -> dict[str, float]:
    """Area of each shape of size 1."""
    axis = (np.arange(400) + 0.5) / 250 - 0.8
    down, across = axis[:, None], axis[None, :]
    return {
        name: float((shape.distance(down, across) < 0).sum() / 250**2)
        for name, shape in SHAPES.items()
    }
