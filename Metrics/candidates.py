"""The tokenizers of a comparison, by what a user calls them: a folder, a public name, a file."""

from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.config import from_dict
from MaskGIL.values import did_you_mean
from MaskGIL.weights import read_config
from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError
from Network.tokenizer import NAMED


class Candidate(NamedTuple):
    """A tokenizer whose weights are not read yet; `open_tokenizer(config)` does it."""

    value: str  # as the user calls it
    config: TokenizerConfig
    stride: int
    codebook_size: int

    @property
    def is_public(self) -> bool:
        """Whether its weights are those of its authors, fetched unless they are there."""
        return bool(self.config.name) and not self.config.weights


def find_candidate(key: str, value: str) -> Candidate:
    """What `value` means: a weights folder, a public name, or NAME:FILE with its authors' file.

    Raises UserError naming `key` for what is none of them, and for a folder that is damaged.
    """
    name, _, file = value.partition(":")
    if name in NAMED:
        if file and not Path(file).is_file():
            raise UserError(f"{key}={value}: there is no file {file}; name one of your own.")
        config, described = TokenizerConfig(name=name, weights=file), NAMED[name]
    elif Path(value).is_dir() or "/" in value:
        config = TokenizerConfig(weights=value)
        described = from_dict(TokenizerConfig, read_config(Path(value))["tokenizer"]["config"])
    else:
        raise UserError(
            f"{key}={value} is no weights folder and none of the names {', '.join(NAMED)}."
            f"{did_you_mean(name, NAMED)}"
        )
    with torch.device("meta"):
        tokenizer = build_tokenizer(described)
    return Candidate(value, config, tokenizer.stride, tokenizer.codebook_size)
