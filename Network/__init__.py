"""Floor 1: networks and tokenizers, tensors in and tensors out."""

from Network.config import NetworkConfig, TokenizerConfig, UserError
from Network.gpt import GPT
from Network.tokenizer import build_tokenizer

NETWORKS = {"gpt": GPT}


def build_network(config: NetworkConfig) -> GPT:
    """Build the generator that `config` describes, freshly initialised.

    Raises UserError for an unknown size or for heads that do not divide the width.
    """
    return NETWORKS[config.kind](config)


__all__ = ["NetworkConfig", "TokenizerConfig", "UserError", "build_network", "build_tokenizer"]
