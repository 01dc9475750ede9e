"""The vector quantiser: nearest code, straight-through gradient, its loss terms.

With `l2_norm` latents and codes live on the unit sphere (ViT-VQGAN; LlamaGen), and a looked-up code
is its normalised row. Shapes: B batch, C code width, h x w grid, K codes.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from Network.config import TokenizerConfig

DISTANCES_AT_ONCE = 2**22  # 16 MB, however many latents are looked up: they stay in the cache
TEMPERATURE = 0.01  # of the entropy terms; LlamaGen's, Open-MAGVIT2's and MaskGIT's
NEVER_ZERO = 1e-5  # within the logarithm of a code's frequency


class VectorQuantiser(nn.Module):
    """A codebook (K, C) and the nearest neighbour in it."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.l2_norm = config.l2_norm
        self.codebook_weight = config.codebook_weight
        self.commitment_weight = config.commitment_weight
        self.entropy_weight = config.entropy_weight or 0.0
        self.embedding = nn.Embedding(config.codebook_size, config.code_width)
        spread = 1.0 / config.codebook_size
        nn.init.uniform_(self.embedding.weight, -spread, spread)  # as VQ-VAE (van den Oord, 2017)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, C, h, w) -> codes (B, C, h, w), tokens (B, h, w) int64, loss terms.

        The terms `codebook`, `commitment` and, with a weight, `entropy` are weighted; their sum is
        the quantiser's loss. The codes carry the gradient of `z` (straight-through).
        """
        z = self._normalise(z.float())
        tokens = self._search(z)
        codes = self.lookup(tokens)
        losses = {
            "codebook": self.codebook_weight * F.mse_loss(codes, z.detach()),
            "commitment": self.commitment_weight * F.mse_loss(z, codes.detach()),
        }
        if self.entropy_weight:
            losses["entropy"] = self.entropy_weight * entropy_loss(flat_latents(z), self._codes())
        return z + (codes - z).detach(), tokens, losses

    def nearest(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> tokens (B, h, w) int64 of their nearest codes."""
        return self._search(self._normalise(z.float()))

    def lookup(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) -> codes (B, C, h, w)."""
        return F.embedding(tokens, self._codes()).movedim(-1, 1)

    @torch.no_grad()
    def _search(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w), normalised where the codes are -> tokens (B, h, w) int64.

        |z|^2 + |e|^2 - 2 z e in this expanded form, the first minimum on ties, as the references.
        """
        codes, tokens = self._codes(), []
        squares = codes.square().sum(1)
        with full_precision(z.device.type):  # bfloat16 confuses codes that are near
            for rows in flat_latents(z).split(max(1, DISTANCES_AT_ONCE // len(codes))):
                distances = rows.square().sum(1, keepdim=True) + squares  # (rows, K)
                tokens.append(distances.addmm_(rows, codes.T, alpha=-2).argmin(1))
        return torch.cat(tokens).view(z.shape[0], *z.shape[2:])

    def _codes(self) -> Tensor:
        codes = self.embedding.weight.float()
        return F.normalize(codes, dim=1) if self.l2_norm else codes

    def _normalise(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.l2_norm else z


def entropy_loss(z: Tensor, codes: Tensor) -> Tensor:
    """Mean entropy of a token minus entropy of the mean token, for latents (T, C), codes (K, C).

    A token is code k with the probability softmax(-|z - e_k|^2 / temperature) (MaskGIT's JAX code;
    LlamaGen ce98ec41). Rows of all codes are computed piece by piece, and again in the backward
    pass, so that they never stand in memory for all tokens at once.
    """
    squares, entropies, counts = codes.square().sum(1), [], z.new_zeros(len(codes))
    for rows in z.split(max(1, DISTANCES_AT_ONCE // len(codes))):
        entropy, count = checkpoint(
            _entropy_and_counts, rows, codes, squares, use_reentrant=False, preserve_rng_state=False
        )
        entropies.append(entropy)
        counts = counts + count
    frequencies = counts / len(z)
    negative_of_mean = (frequencies * (frequencies + NEVER_ZERO).log()).sum()
    return torch.stack(entropies).sum() / len(z) + negative_of_mean


def flat_latents(z: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> (B h w, C)."""
    return z.movedim(1, -1).flatten(0, -2)


def _entropy_and_counts(z: Tensor, codes: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over tokens of their entropies, and of their probabilities (K,)."""
    with full_precision(z.device.type):
        distances = torch.addmm(z.square().sum(1, keepdim=True) + squares, z, codes.T, alpha=-2)
    logs = (distances / -TEMPERATURE).log_softmax(1)
    probabilities = logs.exp()
    return -(probabilities * logs).sum(), probabilities.sum(0)


def full_precision(kind: str) -> AbstractContextManager:
    """No autocast on a kind of device; the meta device knows none anyway."""
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()
