"""Tokenizers behind one protocol, built by name or configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from Network.config import TokenizerConfig, UserError
from Network.files import load_strict, read_tensors
from Network.tokenizer.vq import VQTokenizer

# Architectures of the public tokenizers by name. Facts: taming-transformers' released configs.
_TAMING = TokenizerConfig(
    code_width=256, l2_norm=False, codebook_weight=0.25, commitment_weight=1.0
)
NAMED = {
    "taming-f16-1024": replace(_TAMING, codebook_size=1024),
    "taming-f16-16384": replace(_TAMING, codebook_size=16384),
}

FAMILIES = {"taming": VQTokenizer}


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
    """Build a tokenizer; with `weights` (a safetensors file) its weights are loaded strictly.

    Raises UserError for an unknown name and for a file that does not fit.
    """
    config, name = name_or_config, ""
    if isinstance(config, str):
        name = config
        if name not in NAMED:
            raise UserError(f"Unknown tokenizer {name!r}. Known: {', '.join(NAMED)}.")
        config = NAMED[name]
    tokenizer = FAMILIES[config.family](config, name)
    if weights is not None:
        load_strict(tokenizer, read_tensors(weights), weights)
    return tokenizer
