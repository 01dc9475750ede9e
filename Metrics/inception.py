"""The Inception network of 2015, by which alone an FID is an FID: torch-fidelity's, weights apart.

Its weights (91 MB) are looked for where PyTorch keeps downloads, or named, or fetched on request.
B batch, H height, W width, C classes.
"""

import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from MaskGIL.device import without_tf32
from Metrics.pretrained import Pretrained, file_sha256
from Network.config import UserError
from Network.files import read_tensors

OFFICIAL = "6726825d"  # how the sha256 of the released file begins, as the file's name says
NAME = f"inception-2015-12-05-{OFFICIAL}"
NETWORK = "inception-2015"  # as results call it
INCEPTION = Pretrained(
    key="inception",
    files=(f"weights-{NAME}.pth", f"pt_{NAME}.pth"),  # torch-fidelity's and pytorch-fid's name
    start=OFFICIAL,
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{NAME}.pth",
    megabytes=91,
)
WIDTH, BATCH = 2048, 32  # a batch takes 30 MB an image
CHANNELS, SPATIAL_WIDTH = 7, 7 * 17 * 17  # of what the sFID looks at


class InceptionOutputs(NamedTuple):
    """What one pass over B images gives, float32 on the CPU."""

    features: Tensor  # (B, 2048), the mean over the last grid: FID, KID, precision, recall
    spatial: Tensor  # (B, 2023), seven channels of a 17x17 grid: sFID
    logits: Tensor  # (B, C), without the classifier's bias, as ADM has them: inception score


class InceptionNetwork:
    """Pictures -> what an FID, an sFID and an inception score need. `name`, `sha256` identify it.

    Weights that are not the released ones give another name: their distances are no FID.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity would unpickle whatever the file holds: it gets the tensors alone
        torch.save(read_tensors(weights), tensors := io.BytesIO())
        tensors.seek(0)
        self.width, self.sha256 = WIDTH, file_sha256(weights)
        self.is_official = self.sha256.startswith(OFFICIAL)
        self.name = NETWORK + ("" if self.is_official else f"-{self.sha256[:8]}")
        try:
            network = FeatureExtractorInceptionV3(
                self.name,
                [str(WIDTH), "logits_unbiased"],
                feature_extractor_weights_path=tensors,
            )
        except RuntimeError as error:
            raise UserError(
                f"inception={weights} has the weights of another network; inception=download "
                "fetches the right ones."
            ) from error
        self._device = device
        self._network = network.to(device).to(memory_format=torch.channels_last)
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, 2048) float32 of images (B, 3, H, W) uint8, in full float32."""
        return self.outputs(images).features

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> InceptionOutputs:
        """All that is looked at of images (B, 3, H, W) uint8, in full float32.

        The network resizes to 299x299 as TensorFlow 1 did: bilinear, corner to corner of the first
        pixels, no antialiasing.
        """
        parts = []
        with without_tf32():
            for part in images.split(BATCH):
                features, logits = self._network(part.to(self._device))
                parts.append(InceptionOutputs(features, self._spatial, logits))
        return InceptionOutputs(*(torch.cat(part).cpu() for part in zip(*parts)))

    def _keep_spatial(self, _module: nn.Module, _input: object, maps: Tensor) -> None:
        """Of maps (B, 192, 17, 17) the first channels, (B, 2023) as TensorFlow lays them out.

        ADM's `mixed_6/conv:0` (Nash et al. 2021): `mixed` without a number is Mixed_5b, so
        `mixed_6` is Mixed_6d. The order is that of mu_s and sigma_s in its reference files.
        """
        self._spatial = maps[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)


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


def weights_sha256(value: str) -> str | bool:
    """How the sha256 of the weights that a key of this value asks for begins; False without any.

    Raises UserError as `find_weights`.
    """
    return INCEPTION.sha256(value)[: len(OFFICIAL)] or False
