"""A wish: what a visitor of the page asks for, as the configuration of the command that does it.

So the page can ask for nothing that `generate` and `edit` do not check, and the command that draws
the same picture is that configuration, written out. Numbers are brought into their bounds.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from MaskGIL.classes import class_index, class_names
from MaskGIL.config import from_dict, to_dict
from MaskGIL.edit import EditConfig
from MaskGIL.effects import asks, without_effect
from MaskGIL.generate import GenerateConfig
from MaskGIL.masking import SCHEDULES
from MaskGIL.orders import ORDERS
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import PLANS, plan_kind
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import SamplingKeys, given_settings, sampler_of
from MaskGIL.values import show_value
from Network.config import UserError

KINDS = ("generate", "inpaint", "outpaint")
SCHEMAS = {"generate": GenerateConfig, "edit": EditConfig}
MOST_IMAGES, MOST_STEPS, MOST_TEXT = 9, 64, 1000
LARGEST_SEED = 2**53 - 1  # that a browser can count to
SETTINGS = ("plan", "num_ar", "num_steps", "schedule", "order", "guidance_scale", "temperature")
WORDS = {"schedule": tuple(SCHEDULES), "order": tuple(ORDERS)}
SIDES = ("left", "right", "top", "bottom")
_PLAIN_NAME = re.compile(r"[\w.'-]+( [\w.'-]+)*")  # what a list on a command line takes as it is

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Wish:
    """What to draw, by which sampler, and the picture and mask that an edit begins with."""

    config: GenerateConfig | EditConfig
    sampling: SamplingConfig
    image: str = ""  # of an edit, as data URLs that nobody has looked into yet
    mask: str = ""

    def subject(self, pipe: Pipeline) -> str:
        """What people should read for what it is of; empty for nothing."""
        count, negative = pipe.network.config.num_classes, self.config.negative_prompt
        names = class_names(pipe.classes, count)
        labels = (class_index(label, pipe.classes, count) for label in self.config.class_labels)
        away = f"away from {negative}" if negative else ""
        parts = (*(names[label] for label in labels), self.config.prompt, away)
        return ", ".join(filter(None, parts))

    @property
    def command(self) -> str:
        """What draws the same on a command line; pictures lie beside it as those of `edit`."""
        name = next(name for name, schema in SCHEMAS.items() if isinstance(self.config, schema))
        plain, values = to_dict(type(self.config)()), to_dict(self.config)
        bare = [self.config.kind] if isinstance(self.config, EditConfig) else []
        changed = [
            f"{key}={show_value(value) if value not in ([], '') else ''}"
            for key, value in values.items()
            if value != plain[key] and key != "kind"
        ]
        return shlex.join(["python", "-m", "MaskGIL", name, *bare, *changed])


class Wishes:
    """Reads wishes for a pipeline that the keys `opened` have opened.

    The sampler of `pipe` is that of its weights; settings among the keys are where the page begins.
    """

    def __init__(self, pipe: Pipeline, opened: SamplingKeys):
        self.pipe, self.first = pipe, pipe.sampling.changed(**given_settings(opened))
        plain = SamplingKeys()
        settings = {field.name for field in fields(SamplingConfig)}
        self._opened = {
            field.name: getattr(opened, field.name)
            for field in fields(SamplingKeys)
            if field.name not in settings
            and getattr(opened, field.name) != getattr(plain, field.name)
        }

    @property
    def plans(self) -> list[str]:
        """Those that the networks can follow."""
        kinds = set(self.pipe.networks)
        return [plan for plan, needed in PLANS.items() if kinds >= set(needed)]

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest of every number, by its key."""
        height, width = self.pipe.network.config.grid
        size = max(self.pipe.image_size)
        return {
            "num_images": (1, MOST_IMAGES),
            "seed": (0, LARGEST_SEED),
            "num_ar": (1, max(1, height * width - 1)),
            "num_steps": (1, min(MOST_STEPS, height * width)),
            "guidance_scale": (0, 20),
            "temperature": (0, 3),
            **dict.fromkeys(SIDES, (0, size)),
        }

    def first_settings(self) -> dict[str, Any]:
        """Where the page begins: a value for each of SETTINGS."""
        found = {key: getattr(self.first, key) for key in SETTINGS}
        tokens = math.prod(self.pipe.network.config.grid)
        num_ar = found["num_ar"] or max(1, tokens // 4)
        return found | {"plan": plan_kind(self.pipe.objective, self.first.plan), "num_ar": num_ar}

    def read(self, asked: object) -> Wish:
        """What a visitor sent, as JSON has it. Raises UserError for what cannot be meant."""
        if not isinstance(asked, dict):
            raise UserError("A wish is an object with keys and values.")
        kind = _word(asked, "kind", KINDS)
        subject = self._subject(asked)
        is_of = any(subject.values())
        sampling, changes = self._sampler(asked, is_of)
        values = {
            **self._opened,
            **changes,
            **subject,
            "seed": self._number(asked, "seed", 0),
            "num_images": self._number(asked, "num_images", 1),
        }
        sampler = sampler_of(self.pipe, sampling, asks=is_of)
        if sampler.kind == "mar":  # a command refuses what has no effect
            values.pop("ar_weights", None)
        if not is_of:
            values.pop("text_encoder", None)
        if "negative_prompt" in without_effect(sampler):
            values.pop("negative_prompt", None)
        if kind == "generate":
            values["num_images"] = max(values["num_images"], len(values.get("class_labels", ())))
            return Wish(from_dict(GenerateConfig, values, "the page"), sampling)
        values |= {"kind": kind, "image": "picture.png"}
        if kind == "inpaint":
            values |= {"mask": "mask.png"}
            pictures = {key: _text(asked, key, None) for key in ("image", "mask")}
        else:
            stride = self.pipe.tokenizer.stride
            sides = {key: self._number(asked, key, 0) for key in SIDES}
            values |= {key: pixels // stride * stride for key, pixels in sides.items()}
            values["num_images"] = min(values["num_images"], self._most_canvases(values))
            pictures = {"image": _text(asked, "image", None)}
        if len(values.get("class_labels", ())) > 1:
            raise UserError("An edit is of one class; choose one.")
        return Wish(from_dict(EditConfig, values, "the page"), sampling, **pictures)

    def _most_canvases(self, sides: Values) -> int:
        """How many canvases have together no more pixels than as many pictures as one may ask."""
        height, width = self.pipe.image_size
        high, wide = height + sides["top"] + sides["bottom"], width + sides["left"] + sides["right"]
        return max(1, MOST_IMAGES * height * width // (high * wide))

    def _sampler(self, asked: Values, is_of: bool) -> tuple[SamplingConfig, dict[str, Any]]:
        """The sampler that is asked for, and what of it is not that of the weights.

        Images that are not `is_of` anything have no guidance: it stays as the weights have it.
        """
        first, own = self.first_settings(), self.pipe.sampling
        wanted: dict[str, Any] = {"plan": _word(asked, "plan", self.plans, first["plan"])}
        if wanted["plan"] == "hybrid":
            wanted["num_ar"] = self._number(asked, "num_ar", first["num_ar"])
        wanted["num_steps"] = self._number(asked, "num_steps", first["num_steps"])
        tokens = math.prod(self.pipe.network.config.grid) - wanted.get("num_ar", 0)
        wanted["num_steps"] = min(wanted["num_steps"], tokens)
        for key in ("schedule", "order"):
            wanted[key] = _word(asked, key, WORDS[key], first[key])
        for key in ("guidance_scale", "temperature"):
            wanted[key] = self._number(asked, key, first[key], whole=False)
        if any(wanted[key] != first[key] for key in ("num_steps", "schedule")):
            wanted |= {"counts": (), "legacy": False}  # both are of other steps
        if plan_kind(self.pipe.objective, self.first.plan) == wanted["plan"]:
            wanted["plan"] = self.first.plan  # auto stays auto
        sampling = self.first.changed(**wanted)
        idle = without_effect(sampler_of(self.pipe, sampling, asks=is_of))
        wanted, unasked = to_dict(sampling), to_dict(own)
        changes = {
            key: value
            for key, value in wanted.items()
            if value != unasked[key] and not (key in idle and asks(key, value))
        }
        return own.changed(**{key: getattr(sampling, key) for key in changes}), changes

    def _subject(self, asked: Values) -> dict[str, Any]:
        """The classes or the prompt, as the keys of a command."""
        config = self.pipe.network.config
        if config.caption_width:
            negative = _text(asked, "negative_prompt", "")
            return {"prompt": _text(asked, "prompt", ""), "negative_prompt": negative}
        if not config.num_classes:
            return {}
        given = asked.get("classes", [])
        if not isinstance(given, list) or not 0 < len(given) <= MOST_IMAGES:
            raise UserError(f"Choose 1 to {MOST_IMAGES} classes.")
        return {"class_labels": [self._class(label) for label in given]}

    def _class(self, label: object) -> str:
        """A class as a command names it: by its name, where that is plain and its own."""
        if not isinstance(label, int | str):
            raise UserError("A class is a number or a name.")
        known, count = self.pipe.classes, self.pipe.network.config.num_classes
        number = class_index(label, known, count)
        name = class_names(known, count)[number]
        if not _PLAIN_NAME.fullmatch(name):
            return str(number)
        try:
            return name if class_index(name, known, count) == number else str(number)
        except UserError:  # two classes have it, or it is made up here
            return str(number)

    def _number(self, asked: Values, key: str, default: float, whole: bool = True) -> Any:
        """A number within its bounds. Raises UserError for what is none."""
        value = asked.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -math.inf < value < math.inf:  # an int may fit no float
            raise UserError(f"{key} takes a number.")
        low, high = self.bounds()[key]
        value = min(max(value, low), high)
        return int(value) if whole else float(value)


def _word(asked: Values, key: str, known: Sequence[str], default: str = "") -> str:
    value = asked.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{key} is one of {', '.join(known)}.")
    return value


def _text(asked: Values, key: str, default: str | None) -> str:
    """Text; of prompts as much as can be meant. Without a default it must be there."""
    value = asked.get(key, default)
    if value is None or (default is None and value == ""):
        raise UserError(f"{key} is missing.")
    if not isinstance(value, str):
        raise UserError(f"{key} takes text.")
    return value if default is None else value.strip()[:MOST_TEXT]
