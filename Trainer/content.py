"""What a run is trained on, whatever folder that lies in.

Each checkpoint notes it, so that a run is never resumed on something else.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from MaskGIL.cached_rows import CachedRows
from MaskGIL.data import Images, images_hash
from Network.config import UserError

Content = dict[str, str | int | list[str]]


def data_content(images: Images) -> Content:
    """Names of the classes, number of images, and a hash of the images' names and labels.

    Of rows of a cache, whose names are numbers, a hash of its tokens too.
    """
    content: Content = {
        "classes named": list(images.classes),
        "number of images": len(images),
        "sha256 of image names": images_hash(images),
    }
    if isinstance(images, CachedRows):
        content["sha256 of tokens"] = images.sha256
    return content


def check_content(out_dir: str, saved: Mapping[str, Any], content: Content) -> None:
    """Raise UserError, naming the first difference, unless a run of `saved` may go on here."""
    for name, here in content.items():
        there = saved.get(name, here)  # a checkpoint of an earlier version may note less
        if there != here:
            raise UserError(
                f"{out_dir} was trained with {name} {_shown(there, here)}, here it is "
                f"{_shown(here, there)}; give the same one or name another out_dir."
            )


def _shown(value: Any, other: Any) -> str:
    """A value in a sentence: of a list how many, and the first that is not in the other one."""
    if not isinstance(value, list):
        return str(value)
    pairs = enumerate(zip_longest(value, other))
    index, odd = next((index, mine) for index, (mine, theirs) in pairs if mine != theirs)
    return f"[{len(value)} of them, number {index} is {odd}]"
