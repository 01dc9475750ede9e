"""Floor 1: networks and tokenizers, tensors in and tensors out."""

from collections.abc import Callable
from typing import Any

from Network.config import NetworkConfig, TokenizerConfig, UserError
from Network.gpt import GPT
from Network.halton import HaltonTransformer
from Network.published import PublishedGPT
from Network.tokenizer import build_tokenizer
from Network.transformer import MaskTransformer

# By kind, and of kind gpt by the layout of its positions where that needs a network of its own
NETWORKS: dict[str, Callable[[NetworkConfig], Any]] = {
    "gpt": GPT,
    "published": PublishedGPT,
    "vit": MaskTransformer,
    "halton": HaltonTransformer,
}


def build_network(config: NetworkConfig) -> GPT:
    """Build the generator that `config` describes, freshly initialised.

    Its type is that of `GPT`, whose contract all of `NETWORKS` keep: `encode`, `hidden`,
    `hidden_at_once`, `head`, `mask_id`, `null_label`, `objectives`, `head_is_linear`.
    """
    published = config.kind == "gpt" and config.rotary == "published"
    return NETWORKS["published" if published else config.kind](config)


__all__ = ["NetworkConfig", "TokenizerConfig", "UserError", "build_network", "build_tokenizer"]
