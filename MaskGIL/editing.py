"""Edits of images: paint a part anew, go on beyond an edge, vary, walk from class to class.

One idea: tokens that are kept are given to `decode`, the others are hidden and drawn. The public
functions are methods of `Pipeline` too. Shapes: B images of H x W pixels, h x w tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from MaskGIL.arguments import Seed, Seeds, read_setting
from MaskGIL.border import (
    Output,
    Pictures,
    as_output,
    check_output_type,
    fit_mask,
    fit_picture,
    read_masks,
    read_pictures,
)
from MaskGIL.config import require_within
from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.decoding import OnStep
from MaskGIL.noise import uniform
from MaskGIL.windows import Margins, fill_outward
from Network.config import UserError

if TYPE_CHECKING:
    from MaskGIL.pipeline import Labels, Pipeline, StepCallback
    from MaskGIL.predictor import Condition
    from MaskGIL.prompting import Prompts
    from MaskGIL.sampling import SamplingConfig

MOST_PIXELS = 2**22  # of a canvas: 2048 x 2048
CALLER = 4  # frames above a warning: those of a remark, of an edit and of its decorator lie between


@torch.no_grad()
def inpaint(
    pipe: Pipeline,
    images: Pictures,
    masks: Pictures,
    class_labels: Labels = None,
    *,
    prompt: Prompts | None = None,
    negative_prompt: Prompts | None = None,
    height: int | None = None,
    width: int | None = None,
    generator: Seeds = 0,
    paste: bool = True,
    soft_edge: int = 0,
    callback_on_step_end: StepCallback | None = None,
    output_type: str = "pil",
    **sampling: Any,
) -> Output:
    """Draw anew what is white or True in the masks, of the given classes or prompts (None: of any).

    Another class than that of an image swaps it where the mask is. Of images, masks, class_labels
    and prompts there are as many each, or one for all; `read_pictures` says what they may be. A
    token is drawn if the mask touches one of its pixels; the others stay. `paste` puts back the
    pixels that are not masked, and blends over `soft_edge` pixels outside of the mask.
    Images are cropped to `height` x `width` pixels, the generator's own by default.
    `negative_prompt`, `generator`, `output_type`, the callback and `sampling` are those of a call
    of the pipeline. Raises UserError for masks of another size than their image and for what is out
    of range.
    """
    check_output_type(output_type)
    grid = pipe.grid(height, width)
    shape = pixels_of(pipe, grid)
    check_soft_edge(soft_edge, shape)
    settings, pictures, covers = pipe.settings(**sampling), read_pictures(images), read_masks(masks)
    condition, null, (pictures, covers) = _as_many(
        *pipe.condition(class_labels, prompt, negative_prompt), images=pictures, masks=covers
    )
    originals = _fit(pipe, pictures, shape)
    fitted = [fit_mask(*pair, *shape) for pair in zip(covers, pictures)]
    mask = torch.stack(fitted).to(pipe.device)  # (B, H, W)
    tokens = pipe.tokenizer.encode(to_float(originals))
    tokens = tokens.masked_fill(touched(mask, pipe.tokenizer.stride), pipe.network.mask_id)
    _remark_extent(mask)
    _remark_order(pipe, tokens, settings, grid)
    seeds = pipe.seeds(generator, len(condition))
    on_step = pipe.on_step(callback_on_step_end)
    tokens = pipe.fill_tokens(tokens, condition, seeds, settings, on_step, null)
    return _output(pipe, tokens, originals, mask, soft_edge if paste else None, output_type)


@torch.no_grad()
def outpaint(
    pipe: Pipeline,
    images: Pictures,
    class_labels: Labels = None,
    *,
    prompt: Prompts | None = None,
    negative_prompt: Prompts | None = None,
    height: int | None = None,
    width: int | None = None,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    generator: Seeds = 0,
    paste: bool = True,
    soft_edge: int = 0,
    callback_on_step_end: StepCallback | None = None,
    output_type: str = "pil",
    **sampling: Any,
) -> Output:
    """Continue images by so many pixels on each side, multiples of the tokenizer's stride.

    The generator sees as much at once as the cropped image has, half of it known, and goes outward;
    so any amount is possible. Other arguments as in `inpaint`, the mask being what is new; the
    callback sees the whole canvas, and steps are counted on from one view to the next. Raises
    UserError for other amounts, for none, and for more than 2048 x 2048 pixels in all.
    """
    check_output_type(output_type)
    grid = pipe.grid(height, width)
    check_soft_edge(soft_edge, pixels_of(pipe, grid))
    margins = token_margins(pipe, grid, left=left, right=right, top=top, bottom=bottom)
    settings, pictures = pipe.settings(**sampling), read_pictures(images)
    condition, null, (pictures,) = _as_many(
        *pipe.condition(class_labels, prompt, negative_prompt), images=pictures
    )
    originals = _fit(pipe, pictures, pixels_of(pipe, grid))
    seeds = pipe.seeds(generator, len(condition))
    tokens, mask_id = pipe.tokenizer.encode(to_float(originals)), pipe.network.mask_id
    _remark_order(pipe, margins.pad(tokens, mask_id), settings, grid)

    def fill(view: Tensor, seeds: Tensor, on_step: OnStep | None) -> Tensor:
        return pipe.fill_tokens(view, condition, seeds, settings, on_step, null)

    on_step = pipe.on_step(callback_on_step_end)
    tokens = fill_outward(tokens, margins, seeds, mask_id, fill, on_step)
    pixels = Margins(left, right, top, bottom)
    mask = pixels.pad(torch.zeros_like(originals[:, 0], dtype=torch.bool), 1)
    edge = soft_edge if paste else None
    return _output(pipe, tokens, pixels.pad(originals, 0), mask, edge, output_type)


@torch.no_grad()
def vary(
    pipe: Pipeline,
    images: Pictures,
    strength: float,
    class_labels: Labels = None,
    *,
    prompt: Prompts | None = None,
    negative_prompt: Prompts | None = None,
    height: int | None = None,
    width: int | None = None,
    generator: Seeds = 0,
    callback_on_step_end: StepCallback | None = None,
    output_type: str = "pil",
    **sampling: Any,
) -> Output:
    """Draw the share `strength` of the tokens anew: 0 is a reconstruction, 1 a fresh sample.

    Which ones follows from the seed; those of a smaller strength are among those of a larger one.
    Other arguments as in `inpaint`. Raises UserError for a strength outside of [0, 1].
    """
    check_output_type(output_type)
    grid = pipe.grid(height, width)
    settings, pictures = pipe.settings(**sampling), read_pictures(images)
    condition, null, (pictures,) = _as_many(
        *pipe.condition(class_labels, prompt, negative_prompt), images=pictures
    )
    seeds = pipe.seeds(generator, len(condition))
    mask = at_random(strength, seeds, grid)
    tokens = pipe.tokenizer.encode(to_float(_fit(pipe, pictures, pixels_of(pipe, grid))))
    tokens = tokens.masked_fill(mask, pipe.network.mask_id)
    _remark_order(pipe, tokens, settings, grid)
    on_step = pipe.on_step(callback_on_step_end)
    tokens = pipe.fill_tokens(tokens, condition, seeds, settings, on_step, null)
    return as_output(to_uint8(pipe.pixels(tokens)), tokens, output_type)


@torch.no_grad()
def interpolate(
    pipe: Pipeline,
    first: int | str,
    second: int | str,
    count: int,
    *,
    height: int | None = None,
    width: int | None = None,
    generator: Seed | None = 0,
    output_type: str = "pil",
    **sampling: Any,
) -> Output:
    """`count` images from one class to another, all of the same noise.

    The condition is a mixture of both classes, the share of the second growing from 0 to 1; so the
    ends are what a call draws of the classes. Raises UserError for fewer than two images and for
    a generator without classes.
    """
    check_output_type(output_type)
    check_classes(pipe)
    if count < 2:
        raise UserError(f"{count} images cannot go from one class to another; ask for at least 2.")
    ends = F.one_hot(pipe.labels([first, second]), pipe.network.null_label + 1).float()
    weights = torch.linspace(0, 1, count, device=pipe.device)[:, None]  # (count, 1)
    shares = torch.lerp(ends[0], ends[1], weights)  # (count, num_classes + 1)
    seeds = pipe.seeds(generator, 1).expand(count)
    grid = pipe.grid(height, width)
    tokens = pipe.sample_tokens(shares, seeds, pipe.settings(**sampling), grid)
    return as_output(to_uint8(pipe.pixels(tokens)), tokens, output_type)


def check_classes(pipe: Pipeline) -> None:
    """Raise UserError for a generator without classes."""
    if not pipe.network.config.num_classes:
        raise UserError("This model knows no classes; there is nothing to interpolate between.")


def pixels_of(pipe: Pipeline, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of a grid (h, w) of tokens."""
    return grid[0] * pipe.tokenizer.stride, grid[1] * pipe.tokenizer.stride


def check_soft_edge(soft_edge: int, shape: tuple[int, int]) -> None:
    """Raise UserError unless `soft_edge` lies between 0 and the longer side of an image."""
    require_within("soft_edge", read_setting("soft_edge", soft_edge, int), 0, max(shape))


def touched(mask: Tensor, stride: int) -> Tensor:
    """Which tokens (B, h, w) have a pixel in mask (B, H, W) bool."""
    return F.max_pool2d(mask[:, None].float(), stride)[:, 0] > 0


def at_random(strength: float, seeds: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask (B, h, w) of the share `strength` of the tokens of a grid (h, w), by seeds (B,).

    Raises UserError for a strength outside of [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength={strength:g} must lie in [0, 1]: the share that is drawn anew.")
    places = torch.arange(grid[0] * grid[1], device=seeds.device)
    order = uniform(seeds[:, None], "variation", 0, places).argsort(1).argsort(1)
    return (order < round(strength * len(places))).view(-1, *grid)


def blend_weight(mask: Tensor, soft_edge: int) -> Tensor:
    """Share of the edited image (B, 1, H, W) in [0, 1]: 1 in the mask (B, H, W), 0 far from it.

    Between, it falls evenly over `soft_edge` pixels outside of the mask, by the larger of the two
    distances, across and down.
    """
    reach = mask[:, None].float()
    total = reach.clone()
    for _ in range(soft_edge):
        reach = F.max_pool2d(reach, 3, stride=1, padding=1)
        total += reach
    return total / (soft_edge + 1)


def token_margins(pipe: Pipeline, grid: tuple[int, int], **pixels: int) -> Margins:
    """Margins in tokens around a grid (h, w), of those in pixels. Raises as `outpaint` does."""
    stride = pipe.tokenizer.stride
    for name, amount in pixels.items():
        read_setting(name, amount, int)
        if amount < 0 or amount % stride:
            nearest = max(0, round(amount / stride)) * stride
            raise UserError(
                f"{name}={amount} must be a multiple of {stride} pixels, the side of a token; "
                f"the nearest is {nearest}."
            )
    if not any(pixels.values()):
        raise UserError("left, right, top and bottom are 0; say by how many pixels to go on.")
    margins = Margins(**{name: amount // stride for name, amount in pixels.items()})
    height, width = grid
    height, width = height + margins.top + margins.bottom, width + margins.left + margins.right
    if height * width * stride**2 > MOST_PIXELS:
        raise UserError(
            f"The canvas would have {width * stride}x{height * stride} pixels, more than "
            f"{MOST_PIXELS:,}; go on by less."
        )
    return margins


def _as_many(
    condition: Condition, null: Condition | None, **pictures: Sequence[Image.Image]
) -> tuple[Condition, Condition | None, list[list[Image.Image]]]:
    """Condition, null and pictures of B images; what there is one of is repeated."""
    kind = "classes" if isinstance(condition, Tensor) else "prompts"
    counts = {**{name: len(each) for name, each in pictures.items()}, kind: len(condition)}
    most = max(counts.values())
    if not set(counts.values()) <= {1, most}:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(f"There are {found}; give as many of each, or one for all.")
    repeated = [[*each] * (most // len(each)) for each in pictures.values()]
    rows = torch.arange(most) % len(condition)
    return condition[rows], None if null is None else null[rows], repeated


def _fit(pipe: Pipeline, pictures: Sequence, shape: tuple[int, int]) -> Tensor:
    """Pictures of this height and width, (B, 3, H, W) uint8 on the device."""
    fitted = [fit_picture(picture, *shape) for picture in pictures]
    return torch.stack(fitted).to(pipe.device)


def _remark_extent(mask: Tensor) -> None:
    """Warn where a mask (B, H, W) hides nothing of an image or all of it."""
    if not mask.flatten(1).any(1).all():
        warnings.warn("A mask is empty: nothing is drawn, the image stays.", stacklevel=CALLER)
    if mask.flatten(1).all(1).any():
        text = "A mask covers all of an image: a fresh sample is drawn, nothing is kept."
        warnings.warn(text, stacklevel=CALLER)


def _remark_order(
    pipe: Pipeline, tokens: Tensor, settings: SamplingConfig, grid: tuple[int, int]
) -> None:
    """Warn where tokens (B, h, w) are kept that an AR plan sees too late."""
    hidden = (tokens == pipe.network.mask_id).flatten(1)  # (B, N)
    kept_behind = (hidden.cumsum(1) > 0) & ~hidden
    if all(step.kind == "ar" for step in pipe.plan(settings, grid)) and kept_behind.any():
        warnings.warn(
            "An AR plan draws row by row and cannot look ahead to what is kept behind the token "
            "that it draws; a masked or a hybrid plan can.",
            stacklevel=CALLER,
        )


def _output(
    pipe: Pipeline,
    tokens: Tensor,
    originals: Tensor,
    mask: Tensor,
    soft_edge: int | None,
    output_type: str,
) -> Output:
    """Tokens (B, h, w) as images, with the original pixels outside of the mask unless None."""
    images = pipe.pixels(tokens)
    if soft_edge is not None:
        images = torch.lerp(to_float(originals), images, blend_weight(mask, soft_edge))
    return as_output(to_uint8(images), tokens, output_type)
