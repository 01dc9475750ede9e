"""The Inception network of 2015, by which alone an FID is an FID: torch-fidelity's, weights apart.

Its weights (91 MB) are looked for where PyTorch keeps downloads, or named, or fetched on request.
B batch, H height, W width.
"""

import io
from pathlib import Path

import torch
from torch import Tensor

from Metrics.pretrained import Pretrained, file_sha256
from Network.config import UserError
from Network.files import read_tensors

OFFICIAL = "6726825d"  # how the sha256 of the released file begins, as the file's name says
NAME = f"inception-2015-12-05-{OFFICIAL}"
INCEPTION = Pretrained(
    key="inception",
    files=(f"weights-{NAME}.pth", f"pt_{NAME}.pth"),  # torch-fidelity's and pytorch-fid's name
    start=OFFICIAL,
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{NAME}.pth",
)
WIDTH, BATCH = 2048, 32  # a batch takes 30 MB an image


class InceptionNetwork:
    """Pictures -> the 2048 features before the classifier. `name` and `sha256` identify it.

    Weights that are not the released ones give another name: their distances are no FID.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity would unpickle whatever the file holds: it gets the tensors alone
        torch.save(read_tensors(weights), tensors := io.BytesIO())
        tensors.seek(0)
        self.width, self.sha256 = WIDTH, file_sha256(weights)
        self.is_official = self.sha256.startswith(OFFICIAL)
        self.name = "inception-2015" + ("" if self.is_official else f"-{self.sha256[:8]}")
        try:
            network = FeatureExtractorInceptionV3(
                self.name, [str(WIDTH)], feature_extractor_weights_path=tensors
            )
        except RuntimeError as error:
            raise UserError(f"inception={weights} has the weights of another network.") from error
        self._device = device
        self._network = network.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, 2048) float32 of images (B, 3, H, W) uint8, in full float32.

        The network resizes to 299x299 as TensorFlow 1 did: bilinear, corner to corner of the first
        pixels, no antialiasing.
        """
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [self._network(part.to(self._device))[0] for part in images.split(BATCH)]
        return torch.cat(parts).cpu()


def open_inception(value: str, device: torch.device) -> InceptionNetwork | None:
    """The network that a key `inception` of this value asks for.

    "auto": if its weights lie where PyTorch keeps downloads, else None; "download": fetched there
    first; "none": None; else the path of a file. Raises UserError for what cannot be had.
    """
    weights = INCEPTION.open(value)
    return InceptionNetwork(weights, device) if weights else None


def find_weights(value: str) -> Path | None:
    """The file that `open_inception` reads, None if there is none or it is still to be fetched.

    Raises UserError for a file that is not there, and for a kept one that is damaged.
    """
    return INCEPTION.find(value)
