"""Typed configuration: a YAML file and `key=value` overrides become one frozen dataclass.

A schema is a dataclass of settings and sections (see `Network.config.setting`). Here are also the
settings of training on this floor: data and masking. Stands on OmegaConf's structured configs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_type_hints

from omegaconf import OmegaConf

from MaskGIL.values import Value, choices, describe_type, did_you_mean, quote, read_value
from MaskGIL.yaml_reader import read_settings
from Network.config import UserError, setting

T = TypeVar("T")
LARGEST_SEED = 2**63 - 1  # seeds are kept in 64 signed bits
_WORDS = {"null": None, '"null"': "null", "'null'": "null"}  # a quoted one is a word, as in YAML
Schedule = Literal["root", "linear", "square", "cosine", "arccos", "exp"]
Objective = Literal["mar", "ar", "both"]


class Setting(NamedTuple):
    """One key of a schema, as `leaves` and `sections` list it."""

    key: str
    type: Any
    default: Any
    help: str
    free: bool
    follows: str  # the key that it is filled in by, or empty
    declared: Any  # its default before that


def load_config(schema: type[T], path: str | Path | None, overrides: Sequence[str]) -> T:
    """Merge the defaults of `schema`, a YAML file (None: no file) and `key=value` strings.

    Later ones win. A value is read as the type of its key asks: `1e-4` is a number for a float and
    a word for a text; a list is written `a,b`. The result is a plain frozen dataclass. Raises
    UserError naming the key or the file for whatever does not fit.
    """
    settings: dict[str, tuple[Value, str]] = {}
    if path is not None:
        for key, (value, file) in read_settings(path).items():
            settings[key] = (value, f"in {file}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{quote(override)} has no value: write KEY=VALUE.")
        settings[key] = (_WORDS.get(value, value), "on the command line")
    return _build(schema, settings, read_value)


def to_yaml(config: Any) -> str:
    """YAML of all keys in the order of their fields; `load_config` reads it back equal."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of plain values, tuples as lists: what JSON holds."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(schema: type[T], values: Mapping[str, Any], source: str = "config.json") -> T:
    """Inverse of `to_dict`; `source` names the origin in sentences.

    Strict: raises UserError for unknown keys and for values that are not exactly of their key's
    type. Missing keys take their default, so files of earlier versions stay readable.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{source} must hold keys with values, not {quote(values)}.")
    settings = {key: (value, f"in {source}") for key, value in _flatten(values)}
    config = _build(schema, settings, lambda value, kind: value)
    known = {leaf.key: leaf for leaf in leaves(schema)}
    for key, (value, place) in settings.items():
        if key in known and _plain(attrgetter(key)(config)) != value:  # OmegaConf converts much
            raise UserError(_wrong_value(known[key], value, place))
    return config


def identity(config: Any) -> dict[str, object]:
    """Flat {dotted key: plain value} of every key that may not change when a run is resumed."""
    return {leaf.key: _plain(leaf.default) for leaf in _leaves(config) if not leaf.free}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (key, old value, new value) where two identities differ; an absent key is None."""
    keys = dict.fromkeys([*new, *old])
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def leaves(schema: type) -> Iterator[Setting]:
    """Yield every key that takes a value, in the order of the fields, sections opened in place."""
    return _leaves(schema())


def sections(schema: type) -> Iterator[Setting]:
    """Yield every key that holds other keys, an outer section before its inner ones.

    A section that was declared without a sentence has the first line of its dataclass.
    """
    for field in _fields(schema()):
        if dataclasses.is_dataclass(field.default):
            first_line = (type(field.default).__doc__ or "").partition("\n")[0].rstrip(".")
            yield field._replace(help=field.help or first_line)


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they become training samples."""

    source: Literal[
        "shapes", "scenes", "folder", "tokens", "mnist", "fashion-mnist", "cifar10", "stl10"
    ] = setting(
        "shapes",
        "shapes draws images; scenes too, with captions; folder reads those of data.path; tokens "
        "needs no images, only the token cache; others: torchvision's",
    )
    path: str = setting(
        "", "folder of the images: train/CLASS and val/CLASS, ImageNet, COCO, tar files", free=True
    )
    image_size: int = setting(64, "height and width of an image in pixels")
    buckets: tuple[str, ...] = setting(
        (),
        "HEIGHTxWIDTH,... in pixels: each picture is cut to the one nearest in aspect ratio, of "
        "several sizes to the largest that it fills, else the smallest; a batch has one of them; "
        "empty: squares of image_size",
    )
    num_images: int = setting(16384, "number of training images that source=shapes or scenes draws")
    crops: Literal["center", "flip", "ten"] = setting(
        "center", "center: one centre crop; flip: also its mirror image; ten: 5 crops, mirrored too"
    )
    choice: bool = setting(
        False,
        "hold every tenth training image of a class out: they validate in place of val, which is "
        "left for what has been chosen",
    )
    draft: bool = setting(
        False,
        "decode JPEGs of over four times the size at a half, a quarter or an eighth: 2 to 5 times "
        "as fast, pixels differ by about one grey level",
    )
    balance: float = setting(0.0, "0 keeps the class frequencies, 1 shows classes equally often")
    tokens: Literal["cache", "online"] = setting(
        "cache",
        "cache encodes every crop once, before training; online encodes in every step",
    )
    cache: str = setting(
        "", "folder of the token cache, ours or converted; empty: OUT_DIR/cache", free=True
    )
    cache_precision: Literal["fp32", "bf16"] = setting(
        "fp32", "how the cache is encoded: bf16 is faster and changes a small share of the tokens"
    )
    workers: int = setting(0, "processes that read images; 0 reads in the main process", free=True)
    timeout: int = setting(
        60,
        "seconds after which a batch that has not come from the workers ends the run; 0 waits",
        free=True,
    )
    max_bad: float = setting(0.001, "stop if a larger share of images is unreadable", free=True)

    def __post_init__(self):
        require_at_least("data.image_size", self.image_size, 1)
        require_at_least("data.num_images", self.num_images, 1)
        require_within("data.balance", self.balance, 0, 1)
        require_at_least("data.workers", self.workers, 0)
        require_at_least("data.timeout", self.timeout, 0)
        require_within("data.max_bad", self.max_bad, 0, 1)


@dataclass(frozen=True)
class TextConfig:
    """The captions of a text-conditional generator."""

    encoder: str = setting(
        "",
        "text encoder of the captions: a folder, a name as flan-t5-xl, or OWNER/NAME of the hub; "
        "empty without network.caption_width",
        free=True,
    )
    precision: Literal["fp32", "bf16"] = setting("fp32", "how captions are encoded")
    skip_layers: int = setting(0, "last layers of the encoder that are left out")

    def __post_init__(self):
        require_at_least("text.skip_layers", self.skip_layers, 0)


@dataclass(frozen=True)
class MaskingConfig:
    """The masks of training and the loss on them."""

    schedule: Schedule = setting("arccos", "distribution of the mask ratio of a training image")
    label_smoothing: float = setting(0.1, "share of the target spread over the whole codebook")
    class_drop: float = setting(0.1, "share of labels or captions that are dropped, for guidance")
    visible_weight: float = setting(0.0, "weight of the loss on visible tokens; 0 skips them")

    def __post_init__(self):
        require_within("masking.label_smoothing", self.label_smoothing, 0, 1)
        require_within("masking.class_drop", self.class_drop, 0, 1)
        require_at_least("masking.visible_weight", self.visible_weight, 0)


def require_within(key: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless `value` lies in [low, high]."""
    if not low <= value <= high:
        raise UserError(f"{key} must lie in [{low}, {high}], not {value}.")


def require_at_least(key: str, value: float, low: float) -> None:
    """Raise UserError if `value` is below `low`, infinite or no number."""
    if not low <= value < math.inf:
        raise UserError(f"{key} must be at least {low}, not {value}.")


def require_positive(key: str, value: float) -> None:
    """Raise UserError unless `value` is above 0."""
    if not value > 0:
        raise UserError(f"{key} must be above 0, not {value}.")


def _fields(config: Any, prefix: str = "", free: bool = False) -> Iterator[Setting]:
    kinds = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        key, value, about = prefix + field.name, getattr(config, field.name), field.metadata
        is_free = free or about.get("free", False)
        follows = prefix + about["follows"] if about.get("follows") else ""
        yield Setting(
            key, kinds[field.name], value, about.get("help", ""), is_free, follows, field.default
        )
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{key}.", is_free)


def _leaves(config: Any) -> Iterator[Setting]:
    return (field for field in _fields(config) if not dataclasses.is_dataclass(field.default))


def _build(
    schema: type[T],
    settings: Mapping[str, tuple[Any, str]],
    read: Callable[[Any, Any], object],
) -> T:
    """Set {key: (value, place)} in a mutable copy of the schema; `read(value, type)` converts."""
    known = {leaf.key: leaf for leaf in leaves(schema)}
    groups = {section.key for section in sections(schema)}
    config = OmegaConf.structured(schema)
    for group in ["", *groups]:  # the dataclasses are frozen again when they become objects
        OmegaConf.set_readonly(attrgetter(group)(config) if group else config, False)
    for leaf in known.values():
        if leaf.follows and leaf.follows in settings:
            OmegaConf.update(config, leaf.key, leaf.declared)
    for key, (value, place) in settings.items():
        if key in groups:
            if value != "":  # the line `section:` with nothing below it
                raise UserError(f"{key} is a section: its keys ({key}.KEY) take values {place}.")
            continue
        if key not in known:
            raise UserError(_unknown_key(key, place, schema))
        try:
            meant = read(value, known[key].type)
            if "${" in repr(meant) or "'???'" in repr(meant):  # OmegaConf gives them a meaning
                raise UserError(f"{key} holds {quote(value)} {place}: write a plain value.")
            OmegaConf.update(config, key, meant)
        except UserError:
            raise
        except ValueError:
            raise UserError(_wrong_value(known[key], value, place)) from None
    try:
        result = OmegaConf.to_object(config)
    except UserError as error:
        raise UserError(_as_typed(str(error), known)) from None
    assert isinstance(result, schema)
    return result


def _as_typed(sentence: str, known: Iterable[str]) -> str:
    """A sentence that begins with a key as its section knows it, with the key as it is typed."""
    word = sentence.partition(" ")[0].partition("=")[0]
    keys = [key for key in known if key == word or key.endswith(f".{word}")]
    return f"{keys[0].removesuffix(word)}{sentence}" if len(keys) == 1 else sentence


def _wrong_value(leaf: Setting, value: object, place: str) -> str:
    known = choices(leaf.type)
    hint = did_you_mean(value, known) if isinstance(value, str) and value not in known else ""
    return f"{leaf.key} takes {describe_type(leaf.type)}, not {quote(value)} {place}.{hint}"


def _unknown_key(key: str, place: str, schema: type) -> str:
    """Suggest the key that is alike in its full and in its last name, or list the neighbours."""
    known = [field.key for field in _fields(schema())]

    def likeness(name: str) -> float:
        ends = name.rpartition(".")[2], key.rpartition(".")[2]
        return SequenceMatcher(None, name, key).ratio() + SequenceMatcher(None, *ends).ratio()

    closest = max(known, key=likeness)
    if likeness(closest) > 1.3:  # 2 is equality
        return f"Unknown key {quote(key)} {place}. Did you mean '{closest}'?"
    groups = {"", *(section.key for section in sections(schema))}
    parent = key
    while parent not in groups:
        parent = parent.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    return f"Unknown key {quote(key)} {place}. Known there: {', '.join(siblings)}."


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
