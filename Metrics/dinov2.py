"""DINOv2 (Oquab et al. 2023): a second network beside Inception, through timm.

Its Fréchet distances follow people's judgement better than an FID (Stein et al. 2023), and are
none: they are called after the network. B batch, H height, W width, D feature width.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskGIL.device import without_tf32
from Metrics.pretrained import Pretrained, file_sha256
from Network.config import UserError
from Network.files import load_strict, read_tensors

SIDE, PATCH = 224, 14  # pixels of what the network sees, and of a patch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue, in [0, 1]
OFFSET = 0.1  # that the released code adds to the side of a resized grid of positions
BATCH = 32


class Architecture(NamedTuple):
    """A network that was released, without register tokens."""

    name: str
    timm_name: str
    sha256: str  # of the released file


ARCHITECTURES = {  # by feature width
    384: Architecture(
        "vits14",
        "vit_small_patch14_dinov2",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    768: Architecture(
        "vitb14",
        "vit_base_patch14_dinov2",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    1024: Architecture(
        "vitl14",
        "vit_large_patch14_dinov2",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
}
USUAL = ARCHITECTURES[1024]  # of published distances
FILE = f"dinov2_{USUAL.name}_pretrain.pth"
DINOV2 = Pretrained(
    key="dinov2",
    files=(FILE,),
    start=USUAL.sha256,
    url=f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{USUAL.name}/{FILE}",
    megabytes=1218,
)


class Dinov2Network:
    """Pictures -> the class token behind the last norm. `name`, `sha256` identify the network.

    Weights that are not the released ones give another name.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        state = read_tensors(weights)
        self.width = state["cls_token"].shape[-1] if "cls_token" in state else 0
        if self.width not in ARCHITECTURES or "register_tokens" in state:
            raise UserError(
                f"dinov2={weights} has the weights of another network; give those of DINOv2's "
                "ViT-S/14, B/14 or L/14, without registers."
            )
        architecture = ARCHITECTURES[self.width]
        self.sha256 = file_sha256(weights)
        is_official = self.sha256 == architecture.sha256
        self.name = f"dinov2-{architecture.name}" + ("" if is_official else f"-{self.sha256[:8]}")
        self._network = _build(architecture, state, weights).to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 on the CPU of images (B, 3, H, W) uint8, in full float32."""
        with without_tf32():
            parts = [
                self._network(preprocessed(part.to(self._device))).cpu()
                for part in images.split(BATCH)
            ]
        return torch.cat(parts)


def preprocessed(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 -> (B, 3, 224, 224) float32, standardised.

    The whole image is resized, bicubic and antialiased, in float32 without rounding, as EDM2
    (Karras et al. 2024) does it for the FD of DINOv2.
    """
    resized = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True)
    mean, std = (images.new_tensor(x, dtype=torch.float32)[:, None, None] for x in (MEAN, STD))
    return (resized / 255 - mean) / std


def open_dinov2(value: str, device: torch.device) -> Dinov2Network | None:
    """The network that a key `dinov2` of this value asks for; None for "none".

    "auto": the released ViT-L/14 if it lies where PyTorch keeps downloads, else None; "download":
    fetched there first; else the path of a file. Raises UserError for what cannot be had.
    """
    weights = DINOV2.open(value)
    return Dinov2Network(weights, device) if weights else None


def _build(architecture: Architecture, state: dict[str, Tensor], weights: Path) -> nn.Module:
    """timm's network, filled by us. Raises UserError for weights that do not fit."""
    import timm

    with torch.device("meta"):  # else timm first draws 300M parameters at random
        network = timm.create_model(architecture.timm_name, img_size=SIDE, num_classes=0)
    network.to_empty(device="cpu")
    given = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    if "pos_embed" in given:
        given["pos_embed"] = resized_positions(given["pos_embed"])
    load_strict(network, given, weights)
    return network.eval().requires_grad_(False)


def resized_positions(positions: Tensor) -> Tensor:
    """Positions (1, 1 + N, D), of the class token first, on the grid of 224 pixels: (1, 257, D).

    Bicubic without antialiasing, at the scale of 16.1 patches, as the released code has it; timm
    alone would antialias, which gives other features.
    """
    of_class, of_patches = positions[:, :1], positions[:, 1:]
    side, grid = math.isqrt(of_patches.shape[1]), SIDE // PATCH
    if side == grid or side**2 != of_patches.shape[1]:
        return positions
    square = of_patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, side, side)
    scale = (grid + OFFSET) / side
    square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([of_class, square.flatten(2).mT], 1)  # (1, 1 + 256, D)
