"""`python -m MaskGIL edit`: a picture edited by a generator, beside what it was.

A row for each class or prompt: the image, what the generator sees of it, and what it makes of that.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from MaskGIL.border import Output, fit_picture, read_pictures
from MaskGIL.command import Flags, notes
from MaskGIL.config import require_at_least, require_within
from MaskGIL.editing import (
    at_random,
    check_classes,
    check_soft_edge,
    pixels_of,
    token_margins,
    touched,
)
from MaskGIL.generate import sampler_lines
from MaskGIL.output import new_folder, output_path
from MaskGIL.pictures import MASKED_GREY, grey_out, save_grid, save_images
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.regions import REGIONS, read_region
from MaskGIL.sampling_keys import SamplingKeys, check_asked, open_pipeline
from MaskGIL.subjects import label_names
from MaskGIL.values import quote
from MaskGIL.windows import Margins, num_windows
from Network.config import UserError, setting

# kind -> the keys that have an effect on it; the others have one on all
OF_PICTURES = ("image", "prompt", "negative_prompt")
KEYS = {
    "inpaint": (*OF_PICTURES, "mask", "paste", "soft_edge"),
    "outpaint": (*OF_PICTURES, "left", "right", "top", "bottom", "paste", "soft_edge"),
    "vary": (*OF_PICTURES, "strength"),
    "interpolate": (),
}
MOST_IMAGES = 64


@dataclass(frozen=True)
class EditConfig(SamplingKeys):
    """An edit of a picture. A picture that is there already is replaced."""

    kind: Literal["inpaint", "outpaint", "vary", "interpolate"] = setting(
        "inpaint",
        "inpaint draws anew what a mask covers; outpaint goes on beyond the sides; vary draws a "
        "random share anew; interpolate goes from one class to another, without a picture",
    )
    image: str = setting("", "picture to edit: its middle, as large as height and width say")
    mask: str = setting(
        "",
        "of inpaint, what to draw anew: a picture as large as the image, white there; a box "
        f"left,top,right,bottom in pixels of the image; or {', '.join(REGIONS)}",
    )
    class_labels: tuple[str, ...] = setting(
        (), "names or numbers of classes, a row for each, a,b; empty: no class"
    )
    prompt: str = setting(
        "", "of weights that know prompts: what to draw, one text, commas and all; not interpolate"
    )
    negative_prompt: str = setting("", "text that guidance leads away from; empty: from no text")
    height: int = setting(
        0, "height in pixels that the image is cropped to, and drawn in; 0: as the weights learned"
    )
    width: int = setting(0, "as height")
    num_images: int = setting(0, "images in a row; 0: 3, of interpolate 8")
    strength: float = setting(0.5, "of vary: share of the tokens that is drawn anew, 0 to 1")
    left: int = setting(0, "of outpaint: pixels to go on by on this side")
    right: int = setting(0, "the same on the right")
    top: int = setting(0, "the same above")
    bottom: int = setting(0, "the same below")
    paste: bool = setting(True, "put back the pixels of the image that are not drawn anew")
    soft_edge: int = setting(0, "pixels outside of what is drawn over which both are blended")
    out: str = setting("edit.png", "PNG file of all rows; replaced if it is there; empty: none")
    images: str = setting(
        "", "new folder for each result as a PNG of its own, 00.png on; empty: none"
    )
    enlarge: int = setting(1, "pixels of the picture along a side of an image's pixel")

    def __post_init__(self):
        super().__post_init__()
        for name in sorted({key for keys in KEYS.values() for key in keys}):
            default = next(field.default for field in fields(self) if field.name == name)
            if name not in KEYS[self.kind] and getattr(self, name) != default:
                raise UserError(f"{name} has no effect on {self.kind}; leave it out.")
        for name in ("height", "width", "left", "right", "top", "bottom", "soft_edge"):
            require_at_least(name, getattr(self, name), 0)
        require_within("num_images", self.num_images, 0, MOST_IMAGES)
        require_at_least("enlarge", self.enlarge, 1)
        if self.soft_edge and not self.paste:
            raise UserError("soft_edge has no effect with paste=false; leave one of them out.")


class Edit(NamedTuple):
    """An edit that has been checked: how to draw its B images, and what to show beside them.

    Pictures are (3, H, W) uint8, grey where the generator draws.
    """

    draw: Callable[..., Output]  # takes what a call of the pipeline does
    before: Sequence[Tensor] = ()  # a row
    seen: Sequence[Tensor] = ()  # B of them, each before its image
    rounds: int = 1  # how many times the steps of the plan are gone through


def edit(config: EditConfig, flags: Flags) -> None:
    """Edit, write the picture, and say so."""
    started = time.monotonic()
    path, folder = _outputs(config)
    pipe = open_pipeline(config, config.height, config.width)
    grid = _grid(pipe, config)
    check_soft_edge(config.soft_edge, pixels_of(pipe, grid))
    asks = bool(config.class_labels or config.prompt or config.negative_prompt)
    check_asked(config, pipe, config.negative_prompt, grid, asks)
    columns, planned = row_length(config), EDITS[config.kind](pipe, config)
    with notes():
        subject = _subject(pipe, config)
        print(f"edit       {' of '.join(filter(None, (config.kind, config.image)))}")
        print(f"images     {columns} in a row, {subject}, seed {config.seed}")
        print(sampler_lines(pipe, grid, asks))
        if flags.dry_run:
            return
        images = planned.draw().images
    assert isinstance(images, Tensor)
    if path:
        cells = arrange(planned, images.cpu(), columns)
        save_grid(torch.stack(cells), path, len(cells) * columns // len(images), config.enlarge)
    if folder:
        save_images(images, folder)
    print(f"wrote      {', '.join(str(place) for place in (path, folder) if place)}")
    print(f"seconds    {time.monotonic() - started:.1f}")


def row_length(config: EditConfig) -> int:
    """How many images a row has. Raises UserError for too many in all, and for no way between."""
    columns = config.num_images or (8 if config.kind == "interpolate" else 3)
    rows = 1 if config.kind == "interpolate" else max(1, len(config.class_labels))
    if rows * columns > MOST_IMAGES:
        raise UserError(
            f"{rows} classes of {columns} images are more than {MOST_IMAGES}; ask for fewer."
        )
    if config.kind == "interpolate" and columns < 2:
        raise UserError(
            f"num_images={columns} cannot go from one class to another; ask for at least 2."
        )
    return columns


def arrange(planned: Edit, images: Tensor, columns: int) -> list[Tensor]:
    """The cells of all rows, (3, H, W) each: `columns` images (B, 3, H, W) of a row and more."""
    cells = []
    for index, image in enumerate(images):
        cells += planned.before if index % columns == 0 else ()
        cells += planned.seen[index : index + 1]
        cells.append(image)
    return cells


def _inpaint(pipe: Pipeline, config: EditConfig) -> Edit:
    if not config.mask:
        raise UserError(
            "mask is empty; give a picture, a box left,top,right,bottom in pixels, or one of "
            f"{', '.join(REGIONS)}."
        )
    picture, original = _read(pipe, config)
    mask = read_region(config.mask, picture, *original.shape[2:])
    hidden = touched(mask[None], pipe.tokenizer.stride)
    draw = partial(pipe.inpaint, masks=mask, **_asked(config, original))
    return Edit(draw, before=[*original, *grey_out(original, hidden)])


def _outpaint(pipe: Pipeline, config: EditConfig) -> Edit:
    _, original = _read(pipe, config)
    sides = {name: getattr(config, name) for name in Margins._fields}
    grid = _grid(pipe, config)
    rounds = num_windows(grid, token_margins(pipe, grid, **sides))
    seen = Margins(**sides).pad(original, MASKED_GREY)
    draw = partial(pipe.outpaint, **_asked(config, original))
    return Edit(draw, before=[*seen], rounds=rounds)


def _vary(pipe: Pipeline, config: EditConfig) -> Edit:
    _, original = _read(pipe, config)
    asked = _asked(config, original)
    hidden = at_random(config.strength, asked["generator"], _grid(pipe, config))
    seen = grey_out(original, hidden)
    return Edit(partial(pipe.vary, **asked), before=[*original], seen=[*seen])


def _interpolate(pipe: Pipeline, config: EditConfig) -> Edit:
    check_classes(pipe)
    if len(config.class_labels) != 2:
        raise UserError("class_labels of interpolate are two, from and to: class_labels=a,b.")
    first, second = config.class_labels
    asked = {"count": row_length(config), "generator": config.seed, **_output(config)}
    return Edit(partial(pipe.interpolate, first, second, **asked))


EDITS = {
    "inpaint": _inpaint,
    "outpaint": _outpaint,
    "vary": _vary,
    "interpolate": _interpolate,
}


def _outputs(config: EditConfig) -> tuple[Path | None, Path | None]:
    """Where the rows and each result go. Raises UserError for neither, and for a source of them."""
    if not config.out and not config.images:
        raise UserError("out and images are empty; name a file to write, out=edit.png.")
    path = output_path("out", config.out, ".png") if config.out else None
    for key in ("image", "mask"):
        source = getattr(config, key)
        if path and source and path.resolve() == Path(source).resolve():
            raise UserError(f"out={path} would replace the {key}; name another file.")
    return path, new_folder("images", config.images) if config.images else None


def _subject(pipe: Pipeline, config: EditConfig) -> str:
    """What people should read for the classes or the prompt. Raises as `Pipeline.condition`."""
    given = (config.class_labels, config.prompt, config.negative_prompt)
    condition, _ = pipe.condition(*(each or None for each in given))
    if isinstance(condition, Tensor):
        return label_names(pipe, condition)
    return quote(config.prompt) if config.prompt else "no prompt"


def _read(pipe: Pipeline, config: EditConfig) -> tuple[Image.Image, Tensor]:
    """The picture as it is, and (1, 3, H, W) in the size that is asked for."""
    if not config.image:
        raise UserError("image is empty; name the picture to edit, image=cat.png.")
    (picture,) = read_pictures(config.image)
    return picture, fit_picture(picture, *pixels_of(pipe, _grid(pipe, config)))[None]


def _grid(pipe: Pipeline, config: EditConfig) -> tuple[int, int]:
    return pipe.grid(config.height or None, config.width or None)


def _asked(config: EditConfig, original: Tensor) -> dict[str, Any]:
    """The arguments of an edit of a picture: a row of images for each class."""
    columns = row_length(config)
    classes = [name for name in config.class_labels for _ in range(columns)]
    count = len(classes) or columns
    own = [key for key in KEYS[config.kind] if key not in (*OF_PICTURES, "mask")]
    return {
        "images": original.expand(count, -1, -1, -1),
        "class_labels": classes or None,
        "prompt": config.prompt or None,
        "negative_prompt": config.negative_prompt or None,
        "generator": image_seeds(config.seed, torch.arange(count)),
        **_output(config),
        **{key: getattr(config, key) for key in own},
    }


def _output(config: EditConfig) -> dict[str, Any]:
    """What every edit is asked of its images."""
    return {
        "height": config.height or None,
        "width": config.width or None,
        "output_type": "uint8",
    }
