"""Networks and tokenizers small enough for tests.

Their weights are filled: a fresh head is zero and would hide what stands before it.
"""

import torch

from MaskGIL.sampling import SamplingConfig
from Network import build_network, build_tokenizer
from Network.config import NetworkConfig, TokenizerConfig


def network_config(**changes):
    settings = {"depth": 2, "width": 32, "heads": 2, "codebook_size": 11, "num_classes": 3}
    return NetworkConfig(**{**settings, "grid": (4, 4), **changes})


def network(**changes):
    """In float64, where two ways of the same sum differ by 1e-14, so tolerances can be tight."""
    return fill(build_network(network_config(**changes))).double().eval()


def tokenizer_config(**changes):
    settings = {"width": 4, "multipliers": (1, 2), "res_blocks": 1, "attention_levels": (1,)}
    settings |= {"groups": 4, "latent_width": 8, "codebook_size": 11, "code_width": 4}
    return TokenizerConfig(**{**settings, **changes})


def tokenizer(**changes):
    return fill(build_tokenizer(tokenizer_config(**changes))).eval()


@torch.no_grad()
def fill(module, seed=0):
    """Matrices normal with deviation 1.5 / sqrt(fan-in), gains about 1, biases about 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.copy_(1.5 * noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.2 * noise + name.endswith("weight"))
    return module


def guided(guidance, scale):
    return SamplingConfig(guidance=guidance, guidance_scale=scale)


def tokens(batch=2, grid=(4, 4), codes=11, seed=0):
    """Random tokens (B, h, w), the mask token among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(codes + 1, (batch, *grid), generator=generator)
