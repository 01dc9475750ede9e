"""Weights folders of the tiny networks: 16x16 pixels, 8x8 tokens of 11 codes."""

import tiny

from MaskGIL.config import SamplingConfig
from MaskGIL.data.shapes import CLASSES
from MaskGIL.weights import save_weights

SIDE, GRID, CODES = 16, 8, 11


def save_tiny_weights(folder, classes=CLASSES, seed=0):
    """The averaged weights are the last ones plus 0.01."""
    tokenizer = tiny.fill(tiny.tokenizer(), seed)
    network = tiny.network(num_classes=len(classes), grid=(GRID, GRID)).float()
    save_weights(
        folder,
        tokenizer,
        network=network,
        average={name: tensor + 0.01 for name, tensor in network.state_dict().items()},
        classes=classes,
        sampling=SamplingConfig(num_steps=4),
    )
    return folder
