"""The shapes that pictures are cut to for batches, and which of them a picture goes to.

K shapes.
"""

import re
from collections.abc import Sequence

import numpy as np

from MaskGIL.data.crops import Shape
from Network.config import UserError


def read_shapes(texts: Sequence[str]) -> list[Shape]:
    """`data.buckets`, each HEIGHTxWIDTH in pixels. Raises UserError for other words and doubles."""
    shapes: list[Shape] = []
    for text in texts:
        found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if not found:
            raise UserError(
                f"data.buckets has {text!r}; write height x width in pixels, as 256x256,192x320."
            )
        shapes.append((int(found[1]), int(found[2])))
    if len(set(shapes)) < len(shapes):
        raise UserError(f"data.buckets={','.join(texts)} names a shape twice; name each once.")
    return shapes


def choose_shape(shape: Shape, shapes: Sequence[Shape]) -> int:
    """The index of the shape that a picture is cut to.

    That of the nearest aspect ratio, by its logarithm; of several sizes the largest that the
    picture fills without being enlarged, or the smallest. Of equals the first.
    """
    ratios = np.log([height / width for height, width in shapes])
    distances = np.abs(ratios - np.log(shape[0] / shape[1]))
    ratio = ratios[distances.argmin()]
    sizes = sorted((each, index) for index, each in enumerate(shapes) if ratios[index] == ratio)
    filled = [index for (height, width), index in sizes if height <= shape[0] and width <= shape[1]]
    return filled[-1] if filled else sizes[0][1]
