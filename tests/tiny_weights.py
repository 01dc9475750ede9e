"""Weights folders of the tiny networks: 16x16 pixels, 8x8 tokens of 11 codes. And a VGG-16."""

import tiny
import torch
from torchvision.models import vgg

from MaskGIL.data.shapes import CLASSES
from MaskGIL.sampling import SamplingConfig
from MaskGIL.weights import save_weights

SIDE, GRID, CODES = 16, 8, 11


def save_tiny_weights(folder, classes=CLASSES, seed=0, objective="mar"):
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
        objective=objective,
    )
    return folder


def save_made_up_vgg(file):
    """torchvision's file without its classifier, which LPIPS has no use for."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = vgg.make_layers(vgg.cfgs["D"]).state_dict()
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape.shape, generator=generator)
        size = (2 / shape[0].numel()) ** 0.5 if shape.dim() > 1 else 0.1
        state[f"features.{name}"] = noise * size
    torch.save(state, file)
    return file
