"""Tokenizers behind one protocol, built by name or configuration."""

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from torch import Tensor

from Network.config import TokenizerConfig, UserError
from Network.files import load_strict
from Network.tokenizer.families import FAMILIES
from Network.tokenizer.official import official_state
from Network.tokenizer.vq import VQTokenizer

__all__ = ["FAMILIES", "NAMED", "Tokenizer", "build_tokenizer"]

# Architectures of the public tokenizers by name. Facts: the configurations that their authors
# released; Chameleon's from the port in Hugging Face's transformers.
_LLAMAGEN = TokenizerConfig(family="llamagen")
_TAMING = TokenizerConfig(
    code_width=256, l2_norm=False, codebook_weight=0.25, commitment_weight=1.0
)
_MAGVIT2 = TokenizerConfig(
    family="magvit2",
    res_blocks=4,
    attention_levels=(),
    latent_width=18,
    code_width=18,
    codebook_size=2**18,
    l2_norm=False,
)
_F8 = (1, 2, 2, 4)
NAMED = {
    "llamagen-vq16": _LLAMAGEN,
    "llamagen-vq8": replace(_LLAMAGEN, multipliers=_F8, attention_levels=(3,)),
    "taming-f16-1024": replace(_TAMING, codebook_size=1024),
    "taming-f16-16384": replace(_TAMING, codebook_size=16384),
    "maskgit-vq": replace(_TAMING, family="maskgit", codebook_size=1024, attention_levels=()),
    "chameleon-vq": replace(_TAMING, family="chameleon", codebook_size=8192, attention_levels=()),
    "magvit2-f16": _MAGVIT2,
    "magvit2-f8": replace(_MAGVIT2, multipliers=_F8),
}


class Tokenizer(Protocol):
    """What every tokenizer offers; see `VQTokenizer` for shapes and ranges."""

    name: str

    @property
    def codebook_size(self) -> int: ...  # noqa: D102
    @property
    def stride(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...  # noqa: D102
    def encode(self, images: Tensor) -> Tensor: ...  # noqa: D102
    def decode(self, tokens: Tensor, clamp: bool = True) -> Tensor: ...  # noqa: D102
    def latents(self, images: Tensor) -> Tensor: ...  # noqa: D102
    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...  # noqa: D102
    def lookup(self, tokens: Tensor) -> Tensor: ...  # noqa: D102


def build_tokenizer(
    name_or_config: str | TokenizerConfig, weights: str | Path | None = None
) -> VQTokenizer:
    """Build a tokenizer; with `weights`, its authors' file or ours, these are loaded strictly.

    A configuration with a `name` stands for the architecture of that name. Raises UserError for an
    unknown name and for a file that does not fit.
    """
    config, name = name_or_config, ""
    if isinstance(config, str) or config.name:
        name = config if isinstance(config, str) else config.name
        if name not in NAMED:
            close = get_close_matches(name, NAMED, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(f"Unknown tokenizer {name!r}.{hint} Known: {', '.join(NAMED)}.")
        config = NAMED[name]
    tokenizer = VQTokenizer(config, name)
    if weights is not None:
        load_strict(tokenizer, official_state(weights, config.family), weights)
    return tokenizer
