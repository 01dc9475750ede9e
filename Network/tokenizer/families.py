"""The families of tokenizers: which encoder, decoder and quantiser each is made of."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from Network.config import TokenizerConfig
from Network.Taming import autoencoder
from Network.Taming.quantiser import VectorQuantiser
from Network.tokenizer import magvit2, maskgit, patches
from Network.tokenizer.lookup_free import LookupFreeQuantiser

Part = Callable[[TokenizerConfig], nn.Module]
Quantiser = VectorQuantiser | LookupFreeQuantiser


class Family(NamedTuple):
    """The parts of a tokenizer, and how they meet."""

    encoder: Part
    decoder: Part
    quantiser: Callable[[TokenizerConfig], Quantiser]
    quant_convs: bool  # 1x1 convolutions between latents and codes
    unit_range: bool  # its own pixels lie in [0, 1] and not in [-1, 1]
    attention: bool  # at levels and in the middle, as configured; else blocks alone
    least_tokens: int = 1  # of an image: fewer cannot be decoded


_VQGAN = Family(
    autoencoder.Encoder,
    autoencoder.Decoder,
    VectorQuantiser,
    quant_convs=True,
    unit_range=False,
    attention=True,
)
FAMILIES = {
    "taming": _VQGAN,
    "llamagen": _VQGAN,  # the same arithmetic; its files have names of their own
    "chameleon": _VQGAN,
    "maskgit": Family(
        maskgit.Encoder,
        maskgit.Decoder,
        VectorQuantiser,
        quant_convs=False,
        unit_range=True,
        attention=False,
    ),
    "magvit2": Family(
        magvit2.Encoder,
        magvit2.Decoder,
        LookupFreeQuantiser,
        quant_convs=False,
        unit_range=False,
        attention=False,
        least_tokens=2,  # the decoder asks for their unbiased deviation
    ),
    "patches": _VQGAN._replace(encoder=patches.Encoder),
}
