"""How much of a card a run uses: operations per image, peaks of known cards, attention kernel."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from MaskGIL.device import autocast
from Network import build_network
from Network.condition import Captions
from Network.config import NetworkConfig

# Dense products of tensor cores in bf16 (fp16 where a card has no bf16), in TFLOP/s, from NVIDIA's
# data sheets; the first name that is part of the card's own counts
PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "V100 PCIe": 112,
    "V100": 125,
    "T4": 65,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def peak_flops(card: str, dtype: torch.dtype) -> float | None:
    """Operations per second that a card of this name can do in 16 bits; None if not known here.

    In float32 none is given: it depends on whether products may round to TF32. Nor for a slice of
    a card (MIG).
    """
    if dtype == torch.float32 or "MIG" in card:
        return None
    return next((peak * 1e12 for name, peak in PEAKS.items() if _names(name, card)), None)


def use_of_card(
    images_per_second: float,
    flops_per_image: Callable[[], float],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """What to log of a CUDA device that computes so many images per second; nothing of others.

    `mfu` is the share of its peak, on a known card only; what blocks compute again counts as
    nothing (Chowdhery et al., 2022, appendix B). `mem` is the most gigabytes that were reserved
    since the last call.
    """
    if device.type != "cuda":
        return {}
    peak, used = peak_flops(torch.cuda.get_device_name(device), dtype), {}
    if peak and (flops := flops_per_image()):
        used["mfu"] = images_per_second * flops / peak
    used["mem"] = torch.cuda.max_memory_reserved(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return used


def training_flops(module: nn.Module, inputs: tuple) -> int:
    """Operations of a step, with those of the head for the rows in `inputs` only.

    The backward pass takes twice as many as the forward one. All of it may be on the meta device.
    """
    return 3 * count_flops(module, inputs)


def count_flops(module: nn.Module, inputs: tuple) -> int:
    """Floating-point operations of a forward pass, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def attention_kernel(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Which kernel PyTorch takes for the attention of a training step, as seen in a real one.

    Seen in a block of the same width on the same grid, whose weights are whatever memory holds.
    """
    small = replace(config, size="", depth=1, codebook_size=16, low_bits=None)
    if not config.caption_width:
        small = replace(small, num_classes=1)
    with torch.device("meta"):
        network = build_network(small)
    network.to_empty(device=device)
    tokens = torch.zeros(1, *config.grid, dtype=torch.int64, device=device)
    with _Operations() as seen, autocast(device, dtype):
        network(tokens, example_condition(config, tokens))
    return next((name for name in seen.names if "attention" in name), "products and a softmax")


def example_condition(network: NetworkConfig, tokens: Tensor) -> Tensor | Captions:
    """A condition for tokens (B, h, w) such as the network is trained with, on their device."""
    if not network.caption_width:
        return tokens[:, 0, 0]
    shape = len(tokens), network.caption_tokens, network.caption_width
    features = torch.zeros(shape, dtype=torch.bfloat16, device=tokens.device)
    padding = torch.zeros(shape[:2], dtype=torch.bool, device=tokens.device)
    return Captions(features, padding, padding[:, 0])


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__.strip("_"))
        return func(*args, **(kwargs or {}))


def _names(name: str, card: str) -> bool:
    """Whether each word of `name` is one of the card's: an L4 is no L40S."""
    return set(name.lower().split()) <= set(re.split(r"[\s-]+", card.lower()))
