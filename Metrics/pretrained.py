"""Networks that others trained and metrics stand on: where their weights are looked for.

A key of the value `auto`, `download`, `none` or FILE says which; PyTorch's folder of downloads
(TORCH_HOME moves it) keeps what was fetched.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.download import fetch
from MaskGIL.values import did_you_mean
from Network.config import UserError

KNOWN = ("auto", "download", "none")


class Pretrained(NamedTuple):
    """The released weights of a network, and the key that asks for them."""

    key: str
    files: tuple[str, ...]  # names that the one file has in PyTorch's folder, the usual one first
    start: str  # how its sha256 begins
    url: str
    megabytes: int
    is_needed: bool = False  # what the key belongs to cannot do without

    @property
    def known(self) -> tuple[str, ...]:
        """Values of the key that are no file."""
        return tuple(value for value in KNOWN if value != "none" or not self.is_needed)

    def find(self, value: str) -> Path | None:
        """The file that a key of this value means, None if there is none or it is to be fetched.

        Raises UserError for a file that is not there, and for a kept one that is damaged.
        """
        if value not in self.known:
            if not Path(value).is_file():
                known, hint = ", ".join(self.known), did_you_mean(value, self.known)
                raise UserError(f"{self.key}={value} is no file; give one, or {known}.{hint}")
            return Path(value)
        places = [downloads() / name for name in self.files]
        kept = next((place for place in places if place.is_file()), None)
        if value == "none" or kept is None:
            return None
        if not (found := file_sha256(kept)).startswith(self.start):
            instead = "FILE" if self.is_needed else "none"
            raise UserError(
                f"{kept} is not the released file (its sha256 begins with {found[:8]}); delete it, "
                f"or give {self.key}={instead}."
            )
        return kept

    def sha256(self, value: str) -> str:
        """How the sha256 of the weights begins that a key of this value means; "" for none.

        Raises UserError as `find`.
        """
        if weights := self.find(value):
            return file_sha256(weights)
        return self.start if value == "download" else ""

    def open(self, value: str) -> Path | None:
        """As `find`, but "download" fetches what is not there. Raises UserError if it fails."""
        weights = self.find(value)
        if weights is not None or value != "download":
            return weights
        try:
            return fetch(self.url, downloads() / self.files[0], sha256=self.start)
        except UserError as error:
            reason = str(error).removesuffix(".")
            raise UserError(
                f"{self.key}=download failed ({reason}); {self.key}=FILE takes one that you have."
            ) from error


def downloads() -> Path:
    """PyTorch's folder of downloaded weights, which need not be there."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_sha256(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
