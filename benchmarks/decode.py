"""Guided decoding of an empty grid: ours beside the published sampler (plain.sample).

The transformer alone, without the tokenizer's decoder; same weights, same plan, same temperature.
Ours encodes each condition once per image, computes the hidden rows alone in the last block and in
the head, mixes hidden states before the head, and needs no null pass where the scale is 1.
"published, unfused attention" computes attention as ours does on a CPU in bf16.
"""

import sys
from dataclasses import dataclass
from functools import partial

import torch
from networks import BATCHES, NETWORKS, NetworkBenchmark
from paired import Case, Way, command, compare, write
from plain import PlainNetwork, plain_copy, sample, unfused_attention
from torch import nn

from MaskGIL.config import to_dict
from MaskGIL.decoding import decode
from MaskGIL.device import DTYPES, autocast, choose_device
from MaskGIL.plans import mar_plan
from MaskGIL.predictor import GuidedPredictor
from MaskGIL.sampling import SamplingConfig
from Network import build_network
from Network.config import setting
from Network.gpt import GPT


@dataclass(frozen=True)
class DecodeBenchmark(NetworkBenchmark):
    """What to measure."""

    num_steps: int = setting(8, "decoding steps")
    guidance_scale: float = setting(3.0, "guidance at the last step")


def main(config: DecodeBenchmark) -> None:
    device = choose_device(config.device)
    settings = SamplingConfig(num_steps=config.num_steps, guidance_scale=config.guidance_scale)
    cases: dict[str, Case] = {}
    for size in config.sizes:
        torch.manual_seed(0)
        network = build_network(NETWORKS[size]).to(device).eval()
        nn.init.normal_(network.output.weight, std=0.02)
        labels = torch.arange(config.batch or BATCHES[size], device=device)
        labels %= network.null_label
        for precision in config.precision:
            dtype = DTYPES[precision]
            ways = samplers(network, labels, settings, dtype)
            case = compare(ways, dtype, device, config.rounds, config.seconds)
            cases[f"{size} {precision}"] = case
    write("decode", "seconds to decode the tokens of a batch", to_dict(config), cases)


def samplers(
    network: GPT, labels: torch.Tensor, settings: SamplingConfig, dtype: torch.dtype
) -> dict[str, Way]:
    grid, device = network.config.grid, labels.device
    empty = torch.full((len(labels), *grid), network.mask_id, device=device)
    seeds = torch.arange(len(labels), device=device)
    plan = mar_plan(grid[0] * grid[1], settings.num_steps, settings.schedule, settings.order)
    counts = [step.count for step in plan]
    fused = plain_copy(network, network.config)
    unfused = plain_copy(network, network.config, unfused_attention)

    def ours() -> torch.Tensor:
        predictor = GuidedPredictor(network, labels, settings)
        with autocast(device, dtype):
            return decode(predictor, empty, plan, seeds, mask_id=network.mask_id, sampling=settings)

    def published(plain: PlainNetwork) -> torch.Tensor:
        with autocast(device, dtype):
            return sample(plain, labels, counts, settings)

    ways = {
        "ours": ours,
        "published": partial(published, fused),
        "published, unfused attention": partial(published, unfused),
    }
    for way in ways.values():
        assert (way() != network.mask_id).all(), "a token is left hidden"
    return ways


if __name__ == "__main__":
    sys.exit(command(main, DecodeBenchmark, "decode", __doc__ or ""))
