"""Which class a picture shows: a small network that is trained on the training images, then asked.

What it says of samples is to be read beside what it says of the reference, which it has not seen
either. It knows classes by the dozen, not ImageNet's thousand. B batch, S side, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from Metrics.features import INPUT_SIZE, resized
from Metrics.reference import ImageSet, LabelledImages
from Network.config import UserError

MOST_IMAGES = 20_000  # for training: 250 MB
STEPS, BATCH, WIDTH, LR = 1000, 64, 16, 3e-3
SHIFT = 4  # pixels, at most, by which a training image is moved
HOW = (
    f"a residual network of 0.3M parameters at {INPUT_SIZE}x{INPUT_SIZE} pixels, trained for "
    f"{STEPS} steps of {BATCH} training images"
)


class Classifier(nn.Module):
    """Residual blocks at 32, 16, 8 and 4 pixels, then a mean over the picture (He et al. 2016)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = [WIDTH * 2**level for level in range(4)]
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTH, 5, 2, 2, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.blocks = nn.Sequential(*map(Block, widths, widths[1:]))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, 64, 64) in [0, 255]."""
        images = (images / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; halves the side."""

    def __init__(self, width: int, new_width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(width, new_width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(new_width),
            nn.ReLU(),
            nn.Conv2d(new_width, new_width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(new_width),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(width, new_width, 1, 2, bias=False), nn.BatchNorm2d(new_width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, width, S, S) -> (B, new_width, S / 2, S / 2)."""
        return F.relu(self.residual(x) + self.shortcut(x))


def train_classifier(
    train: LabelledImages, num_classes: int, progress: Callable[[int], object] = lambda steps: None
) -> Classifier:
    """A classifier of images like those of `train`, on the CPU; the same for the same images.

    Rare classes are drawn more often, in proportion to the root of their number. `progress` is told
    how many steps are done.
    """
    labels = torch.from_numpy(train.labels)
    images = torch.cat([resized(batch.float()).round().to(torch.uint8) for batch in train])
    rarity = labels.bincount(minlength=num_classes)[labels].double().rsqrt()
    with torch.random.fork_rng(devices=()):  # the weights' start and dropout draw from it
        torch.manual_seed(0)
        classifier = Classifier(num_classes).to(memory_format=torch.channels_last).train()
        optimiser = torch.optim.AdamW(classifier.parameters(), lr=LR, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, STEPS, pct_start=0.1)
        for _ in range(STEPS):
            rows = torch.multinomial(rarity, BATCH, replacement=True)
            logits = classifier(_shifted(images[rows]))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress(1)
    return classifier.eval().requires_grad_(False)


def check_classes(images: ImageSet, classes: Sequence[str]) -> None:
    """Raise UserError unless the images are of these classes, and of two or more of them."""
    labels = set(images.labels.tolist())
    named = list(images.classes) in ([], list(classes))
    if not named or len(labels) < 2 or not labels <= set(range(len(classes))):
        raise UserError(
            f"classifier=true needs images with the classes of the weights, which {images.name} "
            "has not; name folders with CLASS/*, or leave the classifier out."
        )


@torch.inference_mode()
def class_accuracy(
    classifier: Classifier, sets: Mapping[str, LabelledImages], classes: Sequence[str]
) -> dict[str, Any]:
    """How many images of each set the classifier gives their label: all, and by class.

    {"accuracy": {set: share}, "per class": {class: {set: share}}}; None where a set has no image of
    a class, images of unknown class are left out.
    """
    accuracy: dict[str, float | None] = {}
    per_class: dict[str, dict[str, float | None]] = {name: {} for name in classes}
    for name, images in sets.items():
        guessed = [classifier(resized(batch.float())).argmax(1) for batch in images]
        right = torch.cat(guessed).numpy() == images.labels
        accuracy[name] = _share(right[images.labels >= 0])
        for number, class_name in enumerate(classes):
            per_class[class_name][name] = _share(right[images.labels == number])
    return {"how": HOW, "accuracy": accuracy, "per class": per_class}


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None


def _shifted(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) uint8, all moved by the same few pixels, as floats."""
    side = images.shape[-1]
    padded = F.pad(images.float(), (SHIFT,) * 4, mode="replicate")
    top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    return padded[:, :, top : top + side, left : left + side]
