"""LPIPS: how different two images look to a VGG-16 (Zhang et al. 2018), the package `lpips`.

Its linear weights come with the package; those of VGG-16 (528 MB) are torchvision's, looked for
where PyTorch keeps downloads, or named, or fetched on request. B batch, H height, W width.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from Metrics.pretrained import Pretrained, file_sha256
from Network.files import load_strict, read_tensors

OFFICIAL = "397923af"  # how the sha256 of torchvision's file begins, as the file's name says
VGG = Pretrained(
    key="vgg",
    files=(f"vgg16-{OFFICIAL}.pth",),
    start=OFFICIAL,
    url=f"https://download.pytorch.org/models/vgg16-{OFFICIAL}.pth",
    megabytes=528,
)


class Perceptual(nn.Module):
    """Images and images -> distances, by LPIPS 0.1. Frozen; `name` and `sha256` tell whose VGG.

    Weights that are not the released ones give another name: their distances are no LPIPS.
    """

    def __init__(self, weights: Path):
        super().__init__()
        self.sha256 = file_sha256(weights)
        self.is_official = self.sha256.startswith(OFFICIAL)
        self.name = "lpips-vgg-0.1" + ("" if self.is_official else f"-{self.sha256[:8]}")
        self.network = _load(weights).requires_grad_(False)
        self.eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1]; differentiable in both."""
        return self.network(first, second).flatten()  # (B, 1, 1, 1) -> (B,)

    def train(self, mode: bool = True) -> "Perceptual":
        """Stay in evaluation, whatever the module that holds this does: LPIPS has dropout."""
        return super().train(False)


def open_perceptual(weights: Path, device: torch.device) -> Perceptual:
    """LPIPS with the VGG-16 of a file. Raises UserError if it holds another network."""
    return Perceptual(weights).to(device)


def _load(weights: Path) -> nn.Module:
    """The package's network, filled by us: torchvision would first draw 138M parameters at random.

    Raises UserError for weights that do not fit.
    """
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight enum|The parameter 'pretrained'")
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    features, linear = network.net, network.get_submodule("lins")
    for part in (features, linear):  # the rest, a shift and a scale, is there already
        part.to_empty(device="cpu")
    slices = [features.get_submodule(f"slice{number}") for number in range(1, 6)]
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    state = read_tensors(weights).items()
    state = {name: tensor for name, tensor in state if not name.startswith("classifier.")}
    load_strict(nn.ModuleDict({"features": nn.ModuleDict(layers)}), state, weights)
    own = Path(lpips.__file__).with_name("weights") / "v0.1" / "vgg.pth"
    state = {name.removeprefix("lin"): tensor for name, tensor in read_tensors(own).items()}
    load_strict(linear, state, own)
    return network
