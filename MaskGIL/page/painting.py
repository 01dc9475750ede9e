"""A wish drawn before the visitor's eyes: an event for each decoding step, and one at the end.

Pictures in events are data URLs of PNGs. Stands on the pipeline. B images, h x w tokens.
"""

import io
import re
import time
import warnings
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from MaskGIL.confidence_map import colour_confidence
from MaskGIL.data.crops import to_uint8
from MaskGIL.edit import EDITS, EditConfig
from MaskGIL.editing import MOST_PIXELS
from MaskGIL.generate import GenerateConfig
from MaskGIL.history import spread_steps
from MaskGIL.page.wish import Wish
from MaskGIL.pictures import grey_out
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling_keys import sampler_words
from MaskGIL.subjects import choose_subjects
from Network.config import UserError

Event = dict[str, Any]
Tell = Callable[[Event], None]
MOST_SHOWN = 64  # steps of a drawing
FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,")


class Painter:
    """Draws wishes by a pipeline, one after the other."""

    def __init__(self, pipe: Pipeline):
        self.pipe = pipe
        self.blank = blank_tokens(pipe, *pipe.network.config.grid)

    def paint(self, wish: Wish, tell: Tell) -> None:
        """Draw a wish and tell of it. Raises UserError for what the pipeline refuses.

        What `tell` raises, as for a visitor who has left, ends the drawing at that step.
        """
        started = time.perf_counter()
        own = copy(self.pipe)  # the networks are shared, the sampler is not
        own.sampling = wish.sampling
        config, steps = wish.config, _Steps(own, self.blank, tell)
        subject = wish.subject(self.pipe)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            if isinstance(config, GenerateConfig):
                images = _generate(own, config, steps)
            else:
                images = _edit(own, config, wish, steps)
        pictures = [_picture(image) for image in images]
        seconds = time.perf_counter() - started
        tell(
            {
                "event": "done",
                "pictures": pictures,
                "confidence": steps.confidence,
                "seconds": seconds - steps.seconds,
                "seconds_shown": seconds,
                "facts": [
                    subject,
                    f"seed {config.seed}",
                    sampler_words(own, asks=bool(subject)),
                ],
                "command": wish.command,
                "notes": [str(note.message) for note in caught],
            }
        )


def blank_tokens(pipe: Pipeline, height: int, width: int) -> Tensor:
    """Tokens (1, height, width) of a grey picture."""
    stride = pipe.tokenizer.stride
    grey = torch.zeros(1, 3, height * stride, width * stride, device=pipe.device)
    with torch.no_grad():
        return pipe.tokenizer.encode(grey)


class _Steps:
    """Tells of decoding steps: pictures as they stand, grey where hidden, and the confidence.

    The decoder sees `blank` (1, h, w), the tokens of a grey picture, where there are none yet. Of
    many steps, as those of single tokens are, as many are told as a page can show.
    """

    def __init__(self, pipe: Pipeline, blank: Tensor, tell: Tell):
        self.pipe, self.blank, self.tell = pipe, blank, tell
        self.confidence: list[str] = []
        self.seconds = 0.0  # that showing has taken
        self.begin(1)

    def begin(self, rounds: int) -> None:
        """The plan will be gone through so many times."""
        self.count = len(self.pipe.plan()) * rounds
        self.shown = set(spread_steps(self.count, MOST_SHOWN))

    def __call__(self, step: int, tokens: Tensor, confidence: Tensor) -> None:
        """tokens and confidence (B, h, w) are those behind the step."""
        if step not in self.shown:
            return
        hidden = tokens == self.pipe.network.mask_id
        share = hidden.float().mean().item()  # the device has finished the step
        finished, began = time.time(), time.perf_counter()
        if self.blank.shape[1:] != tokens.shape[1:]:
            self.blank = blank_tokens(self.pipe, tokens.shape[1], tokens.shape[2])
        images = self.pipe.pixels(torch.where(hidden, self.blank, tokens))
        colours = colour_confidence(confidence, self.pipe.tokenizer.codebook_size)
        self.confidence = [_picture(colour) for colour in colours]
        self.tell(
            {
                "event": "step",
                "step": step + 1,
                "steps": self.count,
                "hidden": share,
                "at": finished,
                "pictures": [_picture(image) for image in grey_out(to_uint8(images), hidden)],
                "confidence": self.confidence,
            }
        )
        self.seconds += time.perf_counter() - began

    def of_edit(self, pipe: Pipeline, step: int, state: dict[str, Tensor]) -> None:
        """The same as a callback of an edit."""
        self(step, **state)


def _generate(pipe: Pipeline, config: GenerateConfig, steps: _Steps) -> Tensor:
    """Images (B, 3, H, W) uint8, as `generate` draws them."""
    subjects = choose_subjects(pipe, config)
    seeds, rows = pipe.seeds(config.seed, len(subjects)), slice(len(subjects))
    null = subjects.null[rows] if subjects.null else None
    tokens = pipe.sample_tokens(subjects.condition[rows], seeds, on_step=steps, null=null)
    return to_uint8(pipe.pixels(tokens))


def _edit(pipe: Pipeline, config: EditConfig, wish: Wish, steps: _Steps) -> Tensor:
    """Images (B, 3, H, W) uint8, as `edit` draws them."""
    given = {key: getattr(wish, key) for key in ("image", "mask") if getattr(config, key)}
    with _files(**given) as files:
        planned = EDITS[config.kind](pipe, replace(config, **files))
        steps.begin(planned.rounds)
        images = planned.draw(callback_on_step_end=steps.of_edit).images
    assert isinstance(images, Tensor)
    return images


@contextmanager
def _files(**urls: str) -> Iterator[dict[str, str]]:
    """The pictures of data URLs as files of their own; what is none raises UserError."""
    with TemporaryDirectory() as folder:
        files = {key: Path(folder) / f"{key}.png" for key in urls}
        for key, file in files.items():
            file.write_bytes(read_data_url(key, urls[key]))
        yield {key: str(file) for key, file in files.items()}


def read_data_url(key: str, url: str) -> bytes:
    """The bytes of a picture that a browser sent, which can be read.

    Raises UserError for what is no picture, and by its head alone for one of more pixels than a
    canvas has.
    """
    found = _DATA_URL.match(url)
    if not found:
        raise UserError(f"{key} is no picture; choose a PNG, JPEG or WebP file.")
    try:
        data = b64decode(url[found.end() :], validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height <= MOST_PIXELS:
            picture.load()
            return data
    except (NoBase64, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{key} cannot be read; choose a PNG, JPEG or WebP file.") from None
    raise UserError(
        f"{key} has {width}x{height} pixels, more than {MOST_PIXELS:,}; choose a smaller one."
    )


def _picture(image: Tensor) -> str:
    """Pixels (3, H, W) uint8 as the data URL of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
