"""Whether the parts of a generator's run go together: network, tokenizer, data and captions."""

from dataclasses import fields

from MaskGIL.data.crops import Shape, show_size
from MaskGIL.plans import make_plan
from Network import network_class
from Network.config import UserError
from Network.tokenizer.vq import VQTokenizer
from Trainer.config import RunConfig


def check_network(config: RunConfig, tokenizer: VQTokenizer, num_classes: int) -> None:
    """Raise UserError, naming the value that fits, unless network, tokenizer and data agree."""
    network, sampling = config.network, config.sampling
    side, rest = divmod(config.data.image_size, tokenizer.stride)
    if rest:
        raise UserError(
            f"data.image_size={config.data.image_size} is not divisible by the tokenizer's "
            f"stride {tokenizer.stride}."
        )
    if network.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"The tokenizer has {tokenizer.codebook_size} codes, network.codebook_size is "
            f"{network.codebook_size}. Use network.codebook_size={tokenizer.codebook_size}."
        )
    if network.grid != (side, side):
        raise UserError(
            f"Images of {config.data.image_size} pixels give {side}x{side} tokens, network.grid is "
            f"{network.grid[0]}x{network.grid[1]}. Use network.grid={side},{side}."
        )
    if network.num_classes not in (0, num_classes):
        raise UserError(
            f"Data has {num_classes} classes, network.num_classes is {network.num_classes}. "
            f"Use network.num_classes={num_classes} or other data."
        )
    for each in () if network.caption_width else fields(config.text):
        if (given := getattr(config.text, each.name)) != each.default:
            raise UserError(
                f"text.{each.name}={given} has no effect without captions; give "
                "network.caption_width and network.num_classes=0, or leave it out."
            )
    if config.data.buckets and network.learns_places:
        raise UserError(
            "data.buckets needs a network for any grid, and this one learns each place of "
            "network.grid; use network.kind=gpt network.learned_positions=false."
        )
    known = network_class(network).objectives
    if config.objective not in known:
        raise UserError(
            f"A network of network.kind={network.kind} learns objective={' or '.join(known)}, not "
            f"{config.objective}."
        )
    make_plan(side * side, sampling, config.objective)  # or it raises


def check_bucket(shape: Shape, stride: int) -> None:
    """Raise UserError, naming the nearest shapes that have a grid, for one that has none."""
    if any(side % stride for side in shape):
        near = [sorted({side // stride * stride or stride, -(-side // stride) * stride})
                for side in shape]  # fmt: skip
        found = ", ".join(show_size((height, width)) for height in near[0] for width in near[1])
        raise UserError(
            f"data.buckets has {show_size(shape)}, whose sides are no multiples of the tokenizer's "
            f"stride {stride}; nearest: {found}."
        )
