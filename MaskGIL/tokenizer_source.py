"""A tokenizer by what a user calls it: a weights folder, a public name, NAME:FILE.

One rule for all that take one from the command line: comparisons, `convert`, `inspect`.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.config import from_dict
from MaskGIL.values import did_you_mean
from MaskGIL.weights import open_tokenizer, read_config
from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError
from Network.tokenizer import NAMED
from Network.tokenizer.vq import VQTokenizer


class TokenizerSource(NamedTuple):
    """A tokenizer whose weights are not read yet."""

    value: str  # as the user calls it
    config: TokenizerConfig
    described: VQTokenizer  # on the meta device: everything but numbers

    @property
    def is_public(self) -> bool:
        """Whether its weights are those of its authors, fetched unless they are there."""
        return bool(self.config.name) and not self.config.weights

    def open(self) -> VQTokenizer:
        """The tokenizer, its weights read. Raises UserError for a file that does not fit."""
        return open_tokenizer(self.config)


def find_tokenizer(key: str, value: str) -> TokenizerSource:
    """What `value` means: a weights folder, a public name, or NAME:FILE with its authors' file.

    Raises UserError naming `key` for what is none of them, and for a folder that is damaged.
    """
    name, _, file = value.partition(":")
    path = Path(value)
    if name in NAMED:
        if file and not Path(file).exists():
            raise UserError(f"{key}={value}: there is no file {file}; name one of your own.")
        config, described = TokenizerConfig(name=name, weights=file), name
    elif path.is_file():
        raise UserError(
            f"{key}={value} is a file, which does not say what it is: give its weights folder, "
            f"{path.parent}, or {key}=NAME:{value} with NAME one of {', '.join(NAMED)}."
        )
    elif path.is_dir() or "/" in value:
        config = TokenizerConfig(weights=value)
        described = from_dict(TokenizerConfig, read_config(path)["tokenizer"]["config"])
    else:
        raise UserError(
            f"{key}={value} is no weights folder and none of the names {', '.join(NAMED)}."
            f"{did_you_mean(name, NAMED)}"
        )
    with torch.device("meta"):
        return TokenizerSource(value, config, build_tokenizer(described))
