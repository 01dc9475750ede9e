"""The keys of FID_sample.py: a set of samples, what it is scored against, or what to do instead."""

from dataclasses import dataclass

from MaskGIL.config import require_at_least
from MaskGIL.sampling_keys import SamplingKeys
from Metrics.jackknife import GROUPS
from Metrics.similarity import WINDOW
from Network.config import UserError, setting


@dataclass(frozen=True)
class SampleConfig(SamplingKeys):
    """A set of samples and what it is scored against."""

    num_images: int = setting(50_000, "images of the set")
    out: str = setting(
        "samples.npz", "file of the set, never overwritten; its record: .json beside"
    )
    png: str = setting("", "new folder for the images as PNG files too; empty: none")
    chunk: int = setting(64, "images computed at once; part of the set: bytes depend on it")
    classes: tuple[str, ...] = setting(
        ("balanced",),
        "balanced: all classes equally often; data: as often as in the reference; or names and "
        "numbers, a,b, equally often",
    )
    reference: str = setting(
        "",
        "shapes (drawn, val), shapes:COUNT, folder with val/CLASS or images, or .npz; empty: none",
    )
    num_reference: int = setting(0, "images of the reference, spread evenly over it; 0: all")
    train: str = setting(
        "", "training images to look for copies of: shapes:8192 or a folder; empty: no look"
    )
    ladder: bool = setting(
        False, "also the distances of train, reconstructions and shuffled tokens; needs train"
    )
    classifier: bool = setting(
        False, "also how many samples a classifier trained on train gives their class; needs train"
    )
    inception: str = setting(
        "auto",
        "weights of the Inception network for the FID: a file; auto: what PyTorch's folder of "
        "downloads holds; download: fetched into it first; none: no FID",
    )
    precision_recall: bool = setting(
        True,
        "also KID, precision, recall, density, coverage and 95 % intervals of all distances: keeps "
        "the features of every image; false: no",
    )
    nearest: str = setting(
        "", "PNG file, replaced: 16 samples, each above the nearest training image; needs train"
    )
    reconstruct: tuple[str, ...] = setting(
        (),
        "instead of samples: how well tokenizers redraw the reference, each a weights folder, a "
        "public name or NAME:FILE, a,b; out is a new .json, precision fp32 unless it is given",
    )
    image_size: int = setting(256, "reconstruct: side of the reference's centre crops in pixels")
    vgg: str = setting(
        "auto",
        "reconstruct: weights of the VGG-16 for LPIPS, as inception has them: a file, auto, "
        "download or none",
    )
    grid: str = setting(
        "", "reconstruct: PNG file, replaced: 16 images above what each tokenizer makes of them"
    )

    sweep: tuple[str, ...] = setting(
        (),
        "instead of one set one for every combination, KEY=VALUE VALUE ... for each setting of the "
        "sampler that is to vary, counts=16+48; several such grids, a,b, each with a name before "
        "it if you like; out is a folder, whose finished cells are kept",
    )

    verify: str = setting(
        "",
        "a row of the registry to measure again, a name in results/ or a .json file; keys that are "
        "not given are those of the row; exit code 1 if a hash or a number differs",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.verify:
            return  # its keys are looked at beside those of the row
        require_at_least("num_images", self.num_images, 2)
        require_at_least("chunk", self.chunk, 1)
        require_at_least("num_reference", self.num_reference, 0)
        require_at_least("image_size", self.image_size, WINDOW)
        if self.reconstruct and (self.weights or not self.reference):
            raise UserError(
                "reconstruct redraws the images of reference=... and samples none: give a "
                "reference, and no weights."
            )
        if self.sweep:
            self._check_sweep()
        if self.grid and not self.reconstruct:
            raise UserError("grid shows reconstructions: give reconstruct=... too.")
        if self.train and not self.reference:
            raise UserError("train needs a reference to tell what is near: give reference=... too.")
        for key in ("nearest", "ladder", "classifier"):
            if getattr(self, key) and not self.train:
                raise UserError(f"{key} needs the training images: give train=... too.")
        if not self.precision_recall and (self.sweep or self.reconstruct or not self.reference):
            raise UserError(
                "precision_recall=false leaves out scores of samples against a reference, of which "
                "there are none; leave the key out."
            )
        if self.inception not in ("auto", "none") and not self.reference:
            raise UserError("inception needs a reference: an FID is the distance to one.")

    def _check_sweep(self) -> None:
        if not self.reference:
            raise UserError("sweep scores its cells against a reference: give reference=... too.")
        for key in ("reconstruct", "png", "train"):
            if getattr(self, key):
                raise UserError(f"{key} has no effect on a sweep; leave it out.")
        if self.num_images < 2 * GROUPS:
            raise UserError(
                f"num_images={self.num_images} is too few for the errors of a sweep, which are of "
                f"{GROUPS} groups; give {2 * GROUPS} or more."
            )
