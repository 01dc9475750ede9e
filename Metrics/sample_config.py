"""The keys of FID_sample.py: a set of samples, what it is scored against, or what to do instead."""

from dataclasses import dataclass, fields

from MaskGIL.config import require_at_least
from MaskGIL.data.choice import Told
from MaskGIL.data.folders import Split
from MaskGIL.sampling_keys import SamplingKeys
from Metrics.jackknife import GROUPS
from Metrics.similarity import WINDOW
from Network.config import UserError, setting

NUM_IMAGES = 50_000  # of the sets that published FIDs are of
OF_RECONSTRUCTIONS = ("image_size", "vgg", "grid")
USED_BY_RECONSTRUCTIONS = {"reconstruct", "reference", "reference_split", "num_reference", "out",
                           "inception", "chunk", "device", "precision",
                           *OF_RECONSTRUCTIONS}  # fmt: skip
USED_BY_GIVEN_SAMPLES = {"samples", "num_images", "reference", "reference_split",
                         "num_reference", "inception", "dinov2", "precision_recall", "out",
                         "device"}  # fmt: skip
OF_REFERENCE = ("num_reference", "reference_split", "precision_recall", "dinov2")
OF_ONE_SET = ("height", "width", "resize", "png", "train", "ladder", "classifier", "nearest",
              "precision_recall", "dinov2", "clip")  # fmt: skip
OF_CAPTIONS = ("captions_split", "negative_prompt", "clip")
OF_CLASSES = ("classes", "classifier")


@dataclass(frozen=True)
class SampleConfig(SamplingKeys):
    """A set of samples and what it is scored against."""

    num_images: int = setting(
        0,
        "images of the set, of samples=... a check; 0: 50,000, of samples=... all there are, of "
        "captions=... one for each picture or prompt",
    )
    out: str = setting(
        "samples.npz", "file of the set, never overwritten; its record: .json beside"
    )
    height: int = setting(0, "height in pixels that images are drawn in; 0: as the weights learned")
    width: int = setting(0, "as height")
    resize: int = setting(
        0,
        "side that square images are brought to before they are kept and scored, bicubic without "
        "antialiasing: height=384 width=384 resize=256 is LlamaGen's; 0: left as they are",
    )
    png: str = setting(
        "", "new folder for the images as PNG files too, while they are sampled; empty: none"
    )
    chunk: int = setting(64, "images computed at once; part of the set: bytes depend on it")
    classes: tuple[str, ...] = setting(
        ("balanced",),
        "balanced: all classes equally often; data: as often as in the reference; or names and "
        "numbers, a,b, equally often",
    )
    captions: str = setting(
        "",
        "of weights that know prompts: what images are drawn from, scenes or scenes:COUNT, whose "
        "attributes are read back, a folder of pictures with captions, such as COCO, or a file of "
        "prompts; the order follows from the seed, a picture gives one caption",
    )
    captions_split: Split = setting(
        "val", "pictures whose captions are taken; train has those that were learned"
    )
    negative_prompt: str = setting(
        "", "text that guidance leads all images of captions away from; empty: from no text"
    )
    clip: str = setting(
        "",
        "also the CLIP score of samples and captions by this CLIP, a folder or a name, such as "
        "clip-vit-l14; empty: no",
    )
    reference: str = setting(
        "",
        "shapes or scenes (drawn), shapes:COUNT, folder with SPLIT/CLASS or images, .npz of images "
        "or of statistics: ADM's, or made by python -m Metrics.reference_statistics; empty: none",
    )
    reference_split: Told = setting(
        "val",
        "what the reference is of; train, as published FIDs of generators often are, must be said, "
        "and the record tells; choice: the training images that data.choice holds out",
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
    dinov2: str = setting(
        "none",
        "weights of DINOv2 for one more distance, in the words of inception; auto and download: "
        "ViT-L/14, 1.2 GB and many times slower than Inception",
    )
    precision_recall: bool = setting(
        True,
        "also KID, precision, recall, density, coverage and 95 % intervals of all distances: keeps "
        "the features of every image; false: no",
    )
    nearest: str = setting(
        "", "PNG file, replaced: 16 samples, each above the nearest training image; needs train"
    )
    samples: str = setting(
        "",
        "instead of sampling score these images, an .npz or a folder of files; needs a reference "
        "and no weights; out is a new .json",
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
        require_at_least("num_images", self.count, 2)
        require_at_least("chunk", self.chunk, 1)
        for key in ("num_reference", "height", "width", "resize"):
            require_at_least(key, getattr(self, key), 0)
        require_at_least("image_size", self.image_size, WINDOW)
        if self.samples and not self.reference:
            raise UserError("samples are scored against a reference: give reference=... too.")
        if self.reconstruct and not self.sweep and (self.weights or not self.reference):
            raise UserError(
                "reconstruct redraws the images of reference=... and samples none: give a "
                "reference, and no weights."
            )
        self._refuse_what_has_no_effect()
        if self.sweep:
            self._check_sweep()
        if self.train and not self.reference:
            raise UserError("train needs a reference to tell what is near: give reference=... too.")
        if self.train and self.reference_split != "val":
            raise UserError(
                "train looks for copies by comparing with unseen images, which "
                f"reference_split={self.reference_split} does not leave; give one of the two."
            )
        for key in ("nearest", "ladder", "classifier"):
            if getattr(self, key) and not self.train:
                raise UserError(f"{key} needs the training images: give train=... too.")
        if self.inception not in ("auto", "none") and not self.reference:
            raise UserError("inception needs a reference: an FID is the distance to one.")

    @property
    def count(self) -> int:
        """Images of a set that is sampled from classes."""
        return self.num_images or NUM_IMAGES

    def _refuse_what_has_no_effect(self) -> None:
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if self.sweep:
            unused = {"samples", "reconstruct", *OF_ONE_SET, *OF_RECONSTRUCTIONS}
            what = "on a sweep"
        elif self.samples:
            unused, what = {*changed} - USED_BY_GIVEN_SAMPLES, "on images that are given"
        elif self.reconstruct:
            unused, what = {*changed} - USED_BY_RECONSTRUCTIONS, "where nothing is sampled"
        else:
            unused, what = {*OF_RECONSTRUCTIONS}, "without reconstruct=..."
        for key in changed:
            if key in unused:
                raise UserError(f"{key} has no effect {what}; leave it out.")
            if key in OF_REFERENCE and not self.reference:
                raise UserError(f"{key} has no effect without reference=...; leave it out.")
            if key in OF_CAPTIONS and not self.captions:
                raise UserError(f"{key} has no effect without captions=...; leave it out.")
            if key in OF_CLASSES and self.captions:
                raise UserError(f"{key} has no effect with captions=...; leave it out.")

    def _check_sweep(self) -> None:
        if not self.reference:
            raise UserError("sweep scores its cells against a reference: give reference=... too.")
        if self.count < 2 * GROUPS:
            raise UserError(too_few_for_errors(self.count))


def too_few_for_errors(count: int) -> str:
    """The sentence for a sweep of so few images."""
    return (
        f"num_images={count} is too few for the errors of a sweep, which are of {GROUPS} groups; "
        f"give {2 * GROUPS} or more."
    )
