"""The Inception network of 2015, by which alone an FID is an FID: torch-fidelity's, weights apart.

Its weights (91 MB) are looked for where PyTorch keeps downloads, or named, or fetched on request.
B batch, H height, W width.
"""

import io
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from MaskGIL.durable import sha256
from MaskGIL.values import did_you_mean
from Network.config import UserError
from Network.files import read_tensors

OFFICIAL = "6726825d"  # how the sha256 of the released file begins, as the file's name says
NAME = f"inception-2015-12-05-{OFFICIAL}"
FILES = (f"weights-{NAME}.pth", f"pt_{NAME}.pth")  # torch-fidelity's and pytorch-fid's: one file
WIDTH, BATCH = 2048, 32  # a batch takes 30 MB an image
KNOWN = ("auto", "download", "none")


class InceptionNetwork:
    """Pictures -> the 2048 features before the classifier. `name` and `sha256` identify it.

    Weights that are not the released ones give another name: their distances are no FID.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity would unpickle whatever the file holds: it gets the tensors alone
        torch.save(read_tensors(weights), tensors := io.BytesIO())
        tensors.seek(0)
        self.width, self.sha256 = WIDTH, sha256(weights.read_bytes())
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
    weights = find_weights(value)
    if weights is None and value == "download":
        weights = _download(_folder() / FILES[0])
    return InceptionNetwork(weights, device) if weights else None


def find_weights(value: str) -> Path | None:
    """The file that `open_inception` reads, None if there is none or it is still to be fetched.

    Raises UserError for a file that is not there, and for a kept one that is damaged.
    """
    if value not in KNOWN:
        if not Path(value).is_file():
            hint = did_you_mean(value, KNOWN)
            raise UserError(f"inception={value} is no file; give one, or {', '.join(KNOWN)}.{hint}")
        return Path(value)
    kept = next((_folder() / name for name in FILES if (_folder() / name).is_file()), None)
    if value == "none" or kept is None:
        return None
    if not (found := sha256(kept.read_bytes())).startswith(OFFICIAL):
        raise UserError(
            f"{kept} is not the released file (its sha256 begins with {found[:8]}); delete it, or "
            "give inception=none."
        )
    return kept


def _folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(path: Path) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), OFFICIAL)
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        raise UserError(
            f"inception=download failed ({error}); fetch {URL_INCEPTION_V3} on another machine and "
            "name the file, inception=FILE."
        ) from error
    return path
