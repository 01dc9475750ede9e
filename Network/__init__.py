"""Floor 1: networks and tokenizers, tensors in and tensors out."""

from typing import Any

from Network.config import NetworkConfig, TokenizerConfig, UserError
from Network.gpt import GPT
from Network.halton import HaltonTransformer
from Network.published import PublishedGPT
from Network.tokenizer import build_tokenizer
from Network.transformer import MaskTransformer

NETWORKS: dict[str, Any] = {
    "gpt": GPT,
    "vit": MaskTransformer,
    "halton": HaltonTransformer,
}


def network_class(config: NetworkConfig) -> Any:
    """The class of NETWORKS, or that of the published layout, which needs one of its own."""
    return PublishedGPT if config.rotary == "published" else NETWORKS[config.kind]


def build_network(config: NetworkConfig) -> GPT:
    """Build the generator that `config` describes, freshly initialised.

    Its type is that of `GPT`, whose contract all of NETWORKS keep: `encode`, `hidden`,
    `hidden_at_once`, `head`, `mask_id`, `null_label`, `objectives`, `head_is_linear`.
    """
    return network_class(config)(config)


__all__ = [
    "NETWORKS",
    "NetworkConfig",
    "TokenizerConfig",
    "UserError",
    "build_network",
    "build_tokenizer",
    "network_class",
]
