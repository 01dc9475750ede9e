"""Lookup-free quantisation (MAGVIT-v2, Yu et al., 2023): a token is the signs of its latents.

Facts from SEED-Voken (b9a17eac); the entropy loss is computed without a row of all codes per token.
Shapes: B batch, h x w grid, C bits of a token, T = B h w tokens, K = 2^C codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from Network.config import TokenizerConfig, UserError
from Network.Taming.quantiser import NEVER_ZERO, TEMPERATURE, flat_latents, full_precision

ENTROPY_WEIGHT = 0.1  # Open-MAGVIT2's `codebook_weight`
TOKENS_AT_ONCE = 2**12  # 32 MB of probabilities at 18 bits, however many tokens there are


class LookupFreeQuantiser(nn.Module):
    """The codes {-1, +1}^C: nothing to learn and nothing to store.

    Raises UserError unless `codebook_size` is 2^`code_width`.
    """

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.code_width = config.code_width
        self.commitment_weight = config.commitment_weight
        weight = config.entropy_weight
        self.entropy_weight = ENTROPY_WEIGHT if weight is None else weight
        if config.codebook_size != 2**config.code_width:
            raise UserError(
                f"tokenizer.codebook_size={config.codebook_size} must be {2**config.code_width}, 2 "
                f"to the power of tokenizer.code_width={config.code_width}."
            )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, C, h, w) -> codes (B, C, h, w), tokens (B, h, w) int64, loss terms.

        The terms `commitment` and, with a weight, `entropy` are weighted; their sum is the
        quantiser's loss. The codes carry the gradient of `z` (straight-through).
        """
        z = z.float()
        tokens = self.nearest(z)
        codes = self.lookup(tokens)
        losses = {"commitment": self.commitment_weight * F.mse_loss(z, codes)}
        if self.entropy_weight:
            losses["entropy"] = self.entropy_weight * entropy_loss(flat_latents(z))
        return z + (codes - z).detach(), tokens, losses

    def nearest(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> tokens (B, h, w) int64: sum of 2^k over the positive channels."""
        places = torch.arange(self.code_width, device=z.device).view(-1, 1, 1)
        return ((z > 0).long() << places).sum(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) -> codes (B, C, h, w) in {-1, +1}, channel 0 the least significant."""
        places = torch.arange(self.code_width, device=tokens.device).view(-1, 1, 1)
        return ((tokens[:, None] >> places) & 1) * 2.0 - 1


def entropy_loss(z: Tensor) -> Tensor:
    """Mean entropy of a token minus entropy of the mean token, for latents (T, C).

    A token is code c with the probability softmax(2 z c / temperature), so its bit k is set with
    sigmoid(4 z_k / temperature), independently of the others. The first term is thus a sum over
    bits; in the second a code's probability is that of its high bits times that of its low bits,
    and the sum over tokens a product of two matrices.
    """
    logits = 4 / TEMPERATURE * z.float()  # (T, C)
    counts = logits.new_zeros(())
    for part in logits.split(TOKENS_AT_ONCE):  # recomputed in the backward pass, chunk by chunk
        counts = counts + checkpoint(
            _summed_probabilities, part, use_reentrant=False, preserve_rng_state=False
        )
    frequencies = counts / len(z)  # (2^(C - C/2), 2^(C/2)), all codes
    mean_entropy = _entropy_of_bits(logits).sum(1).mean()
    return mean_entropy + (frequencies * (frequencies + NEVER_ZERO).log()).sum()


def split_tokens(tokens: Tensor, low_bits: int) -> tuple[Tensor, Tensor]:
    """Tokens (any shape) -> their lowest bits and the others, each a token of a smaller codebook.

    Open-MAGVIT2's transformer predicts 6 low and 12 high bits one after the other.
    """
    return tokens & (2**low_bits - 1), tokens >> low_bits


def join_tokens(low: Tensor, high: Tensor, low_bits: int) -> Tensor:
    """The tokens which `split_tokens` took apart, in their shape."""
    return low + (high << low_bits)


def _entropy_of_bits(logits: Tensor) -> Tensor:
    """Entropy of bits set with probability sigmoid(logit); no difference of large numbers."""
    size = logits.abs()
    return F.softplus(-size) + size * torch.sigmoid(-size)


def _summed_probabilities(logits: Tensor) -> Tensor:
    """Logits of bits (T, C) -> probabilities of all codes, summed over tokens."""
    low, high = logits.tensor_split([logits.shape[1] // 2], dim=1)
    with full_precision(logits.device.type):
        return _probabilities(high).T @ _probabilities(low)


def _probabilities(logits: Tensor) -> Tensor:
    """Logits of n bits (T, n) -> probabilities (T, 2^n) of their codes, by token."""
    codes = logits.new_ones(len(logits), 1)
    for logit in logits.mT[:, :, None].unbind():  # (T, 1)
        codes = torch.cat([codes * torch.sigmoid(-logit), codes * torch.sigmoid(logit)], dim=1)
    return codes
