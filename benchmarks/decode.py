"""Guided decoding of an empty grid: ours beside plain renderings of the published samplers.

The transformer alone unless pixels=true; same weights, same plan, same temperature. Ours encodes
each condition once per image, computes the hidden rows alone in the last block and in the head,
mixes hidden states before the head, makes no null pass where the scale is 1, draws in two levels
and has its matrices cast once. The published way (plain.py) computes all logits under both
conditions at every step and draws with torch.multinomial.

With text=true instead images of captions beside those of classes, all ours: of captions of 12 to
28 tokens, padded to the 120 that a network takes, and the same where all 120 are looked at. The
text encoder's pass is not in it. Results go to decode-text.json.
"""

import math
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from networks import BATCHES, NETWORKS
from paired import Case, Way, command, compare, peak_bytes, write
from plain import PlainNetwork, plain_copy, sample, sample_in_order
from torch import Tensor, nn

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.decoding import decode
from MaskGIL.device import DTYPES, autocast, choose_device
from MaskGIL.inference import make_ready
from MaskGIL.plans import make_plan
from MaskGIL.predictor import PREDICTORS, Condition
from MaskGIL.sampling import SamplingConfig
from Network import NetworkConfig, build_network, build_tokenizer
from Network.condition import Captions
from Network.config import setting
from Network.gpt import GPT

# What ours is asked for. The published way ramps its scale in "late" too.
SAMPLERS = {
    "ramp": SamplingConfig(guidance="linear"),
    "late": SamplingConfig(guidance="linear", guidance_from=0.5),  # the last half of the steps
    "order": SamplingConfig(guidance="constant", plan="ar"),
}
CAPTION_WIDTH, LENGTHS = 2048, (12, 28)  # FLAN-T5-XL's; tokens of the shortest and longest one


@dataclass(frozen=True)
class DecodeBenchmark:
    """What to measure."""

    sizes: tuple[Literal["demo", "B", "L", "XL", "XXL"], ...] = setting(("demo",), "networks")
    samplers: tuple[Literal["ramp", "late", "order"], ...] = setting(
        ("ramp", "late", "order"),
        "masked steps, guidance ramped; the same, ours in their last half alone; raster order",
    )
    precision: tuple[Literal["fp32", "bf16"], ...] = setting(("fp32", "bf16"), "precisions")
    batch: tuple[int, ...] = setting(
        (), "images at a time, one case each; empty: as many as the demo trains with, 4 above it"
    )
    num_steps: int = setting(8, "masked steps")
    guidance_scale: float = setting(3.0, "guidance, of a ramp at its last step")
    compile: bool = setting(False, "time ours with compiled blocks too")
    pixels: bool = setting(False, "time ours with the decoder of VQ-16 behind it too")
    text: bool = setting(False, "images of captions beside those of classes, instead of all else")
    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(2.0, "least duration of a turn")
    device: str = setting("auto", "auto, cuda, mps or cpu")

    def __post_init__(self):
        require_at_least("rounds", self.rounds, 1)
        for count in self.batch:
            require_at_least("batch", count, 1)


def main(config: DecodeBenchmark) -> None:
    device = choose_device(config.device)
    cases: dict[str, Case] = {}
    measure = measure_text if config.text else measure_ways
    for size in config.sizes:
        torch.manual_seed(0)
        network = random_network(NETWORKS.get(size) or NetworkConfig(size=size), device)
        for batch in config.batch or (BATCHES.get(size, 4),):
            labels = torch.arange(batch, device=device) % network.null_label
            for sampler in config.samplers:
                for precision in config.precision:
                    name = f"{size} {batch} {sampler} {precision}"
                    cases[name] = measure(config, network, labels, sampler, DTYPES[precision])
                    print(name, "measured", flush=True)
    name = "decode-text" if config.text else "decode"
    write(name, "seconds to decode the tokens of a batch", to_dict(config), cases)


def random_network(config: NetworkConfig, device: torch.device) -> GPT:
    network = build_network(config).to(device).eval()
    nn.init.normal_(network.output.weight, std=0.02)
    return network


def measure_ways(
    config: DecodeBenchmark, network: GPT, labels: Tensor, sampler: str, dtype: torch.dtype
) -> Case:
    """All ways of one case, with images per second and the most memory an image takes beside."""
    device, settings = labels.device, settings_of(config, sampler)
    ways = ways_of(config, network, labels, settings, dtype)
    held = {name: peak_bytes(way, device) for name, way in ways.items()}
    others = {name: torch.float32 for name in ways if name.endswith("fp32")}
    case = compare(ways, dtype, device, config.rounds, config.seconds, others)
    for name in ways:
        rate = len(labels) / case[name]["seconds"]["median"]
        case[name] |= {"images_per_second": float(f"{rate:.4g}")}
        case[name] |= {"megabytes_per_image": round(held[name] / len(labels) / 1e6, 1)}
    return case


def measure_text(
    config: DecodeBenchmark, network: GPT, labels: Tensor, sampler: str, dtype: torch.dtype
) -> Case:
    """Images of captions beside those of labels, by networks that differ in nothing else."""
    device, settings = labels.device, settings_of(config, sampler)
    taught = replace(network.config, num_classes=0, caption_width=CAPTION_WIDTH)
    of_text = ready(random_network(taught, device), dtype)
    lengths = torch.linspace(*LENGTHS, len(labels)).long()
    padded = Captions.padded(
        [torch.randn(int(length), CAPTION_WIDTH, device=device) for length in lengths],
        taught.caption_tokens,
    )
    whole = Captions(padded.features, padded.features.new_zeros(padded.features.shape[:2]).bool())
    ways = {"ours": ours(ready(network, dtype), labels, settings, dtype)}
    for name, captions in {"of captions": padded, "of 120 tokens": whole}.items():
        ways[name] = ours(of_text, captions, settings, dtype)
    return compare(ways, dtype, device, config.rounds, config.seconds)


def settings_of(config: DecodeBenchmark, sampler: str) -> SamplingConfig:
    return replace(
        SAMPLERS[sampler], num_steps=config.num_steps, guidance_scale=config.guidance_scale
    )


def ways_of(
    config: DecodeBenchmark,
    network: GPT,
    labels: Tensor,
    settings: SamplingConfig,
    dtype: torch.dtype,
) -> dict[str, Way]:
    """Ours in `dtype`, the published way in it and, if that is another, in float32."""
    make = partial(ours, condition=labels, settings=settings, dtype=dtype)
    plain = plain_copy(network, network.config)
    baseline = partial(published, plain, labels, settings)
    ways: dict[str, Way] = {"ours": make(ready(network, dtype)), "published": baseline(dtype)}
    if dtype != torch.float32:
        ways["published, fp32"] = baseline(torch.float32)
    if config.compile:
        ways["ours, compiled"] = make(ready(network, dtype, compile=True))
    if config.pixels:
        ways["ours, with pixels"] = with_pixels(ways["ours"], labels.device, dtype)
    for name, way in ways.items():
        assert name.endswith("pixels") or (way() < network.mask_id).all(), "a token is left hidden"
    return ways


def ready(network: GPT, dtype: torch.dtype, compile: bool = False) -> GPT:
    copied = deepcopy(network)
    make_ready(copied, dtype, compile)
    return copied


def ours(network: GPT, condition: Condition, settings: SamplingConfig, dtype: torch.dtype) -> Way:
    grid, device = network.config.grid, network.norm.weight.device
    empty = torch.full((len(condition), *grid), network.mask_id, device=device)
    seeds = torch.arange(len(condition), device=device)
    plan = make_plan(math.prod(grid), settings, "both")

    def way() -> Tensor:
        predictor = PREDICTORS[plan[0].kind](network, condition, settings)
        with autocast(device, dtype):
            return decode(predictor, empty, plan, seeds, mask_id=network.mask_id, sampling=settings)

    return way


def published(
    plain: PlainNetwork, labels: Tensor, settings: SamplingConfig, dtype: torch.dtype
) -> Way:
    counts = [step.count for step in make_plan(math.prod(plain.grid), settings, "both")]
    run: Callable[[], Tensor] = partial(sample, plain, labels, counts, settings)
    if settings.plan == "ar":
        run = partial(sample_in_order, plain, labels, settings, dtype)

    def way() -> Tensor:
        with autocast(labels.device, dtype):
            return run()

    return way


def with_pixels(tokens: Way, device: torch.device, dtype: torch.dtype) -> Way:
    tokenizer = build_tokenizer("llamagen-vq16").to(device).eval()

    @torch.no_grad()
    def way() -> Tensor:
        with autocast(device, dtype):
            return tokenizer.decode(tokens())

    return way


if __name__ == "__main__":
    sys.exit(command(main, DecodeBenchmark, "decode", __doc__ or ""))
