"""A tokenizer of any family: encoder, quantiser, decoder behind the Tokenizer protocol.

Stands on the table of families; its state dict has the key names of the family's public weights,
for LlamaGen those of taming-transformers.
"""

from math import ceil, sqrt

import torch
from torch import Tensor, nn

from Network.config import TokenizerConfig, UserError
from Network.files import fingerprint
from Network.tokenizer.families import FAMILIES
from Network.tokenizer.lookup_free import LookupFreeQuantiser


class VQTokenizer(nn.Module):
    """Images <-> grids of codes. Shapes: B batch, H x W pixels, h x w tokens, C code width."""

    def __init__(self, config: TokenizerConfig, name: str = ""):
        super().__init__()
        self.config = config
        self.name = name or f"{config.family}-f{2 ** (len(config.multipliers) - 1)}"
        family = FAMILIES[config.family]
        if not family.quant_convs and config.latent_width != config.code_width:
            raise UserError(
                f"tokenizer.latent_width={config.latent_width} must equal tokenizer.code_width="
                f"{config.code_width}: nothing stands between them in the family {config.family}."
            )
        if not family.attention:
            _refuse_attention(config)
        self.unit_range, self.least_tokens = family.unit_range, family.least_tokens
        self.encoder = family.encoder(config)
        self.decoder = family.decoder(config)
        self.quantize = family.quantiser(config)
        self.quant_conv: nn.Module = nn.Identity()
        self.post_quant_conv: nn.Module = nn.Identity()
        if family.quant_convs:
            self.quant_conv = nn.Conv2d(config.latent_width, config.code_width, 1)
            self.post_quant_conv = nn.Conv2d(config.code_width, config.latent_width, 1)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def stride(self) -> int:
        """Pixels per token along a side."""
        return 2 ** (len(self.config.multipliers) - 1)

    @property
    def smallest_side(self) -> int:
        """Pixels along a side of the smallest square image that it can draw."""
        return self.stride * ceil(sqrt(self.least_tokens))

    @property
    def num_bits(self) -> int:
        """Bits of a token where each is the sign of a latent; 0 for a codebook."""
        is_signs = isinstance(self.quantize, LookupFreeQuantiser)
        return self.config.code_width if is_signs else 0

    @property
    def fingerprint(self) -> str:
        """Hash over names and values of all weights; a token cache remembers it."""
        return fingerprint(self.state_dict())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Images (B, 3, H, W) in [-1, 1] -> reconstruction, tokens (B, h, w), loss terms."""
        codes, tokens, losses = self.quantise(self.latents(images))
        return self.pixels(codes), tokens, losses

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> tokens (B, h, w) int64, row-major."""
        return self.quantize.nearest(self.latents(images))

    def decode(self, tokens: Tensor, clamp: bool = True) -> Tensor:
        """Tokens (B, h, w) -> images (B, 3, H, W); in [-1, 1] if clamped.

        Raises UserError for tokens outside the codebook, and as `pixels`.
        """
        self._check(tokens)
        images = self.pixels(self.lookup(tokens))
        return images.clamp(-1, 1) if clamp else images

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> latents (B, C, h, w) before quantisation.

        Raises UserError unless the stride divides H and W.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise UserError(
                f"Images of {height}x{width} are not divisible by {self.stride}, the stride of "
                f"{self.name}; crop or resize them."
            )
        images = (images + 1) / 2 if self.unit_range else images
        return self.quant_conv(self.encoder(self._laid_out(images)))

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, C, h, w) -> codes with straight-through gradient, tokens, loss terms."""
        return self.quantize(z)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) -> codes (B, C, h, w)."""
        return self.quantize.lookup(tokens)

    def pixels(self, codes: Tensor) -> Tensor:
        """Codes (B, C, h, w) -> images (B, 3, H, W) around [-1, 1], not clamped.

        Raises UserError for a grid of fewer tokens than the decoder needs.
        """
        height, width = codes.shape[-2:]
        if height * width < self.least_tokens:
            raise UserError(
                f"The decoder of {self.name} needs {self.least_tokens} tokens an image, not "
                f"{height}x{width}; use images of {self.smallest_side} pixels or more along a side."
            )
        images = self.decoder(self.post_quant_conv(self._laid_out(codes)))
        return 2 * images - 1 if self.unit_range else images

    def _check(self, tokens: Tensor) -> None:
        if tokens.is_meta or not tokens.numel():
            return
        least, most = (each.item() for each in tokens.aminmax())
        if least < 0 or most >= self.codebook_size:
            raise UserError(
                f"Tokens reach from {least} to {most}, but {self.name} knows 0 to "
                f"{self.codebook_size - 1}; they belong to another tokenizer, or are still masked."
            )

    def _laid_out(self, tensor: Tensor) -> Tensor:
        """The tensor as the convolutions compute it fastest: in their dtype, channels last."""
        dtype = self.decoder.get_parameter("conv_out.weight").dtype
        return tensor.to(dtype).contiguous(memory_format=torch.channels_last)


def _refuse_attention(config: TokenizerConfig) -> None:
    if config.attention_levels:
        raise UserError(
            f"The family {config.family} has no attention: write tokenizer.attention_levels= "
            f"beside tokenizer.family={config.family}."
        )
    for key in ("encoder_middle", "decoder_middle"):
        if getattr(config, key) == "none":
            raise UserError(
                f"tokenizer.{key}=none is not for the family {config.family}, which always has "
                "blocks in the middle: leave the key out."
            )
