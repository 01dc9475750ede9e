"""What an image costs: operations, calls of the network, steps one after the other, and seconds.

Operations and calls are counted on one small batch; seconds are measured in turns, round after
round, so that what disturbs the machine disturbs all samplers alike. B images of a batch.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from MaskGIL.data.crops import to_uint8
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.predictor import Condition
from MaskGIL.sampling import SamplingConfig
from Metrics.comparison import describe_device
from Metrics.record import versions
from Network.condition import Captions

ROUNDS = 3  # whose median takes no notice of a slow first one
COUNTED = 2  # images of the batch on which operations are counted


def count_cost(
    pipe: Pipeline, condition: Condition, null: Captions | None, sampling: SamplingConfig
) -> dict[str, Any]:
    """Sequential steps, calls of the network and operations of an image, of B >= 1.

    They are of labels (B,) or captions, and guidance leads away from `null`, as many, if there is.
    "network passes" are grids that go through the network for an image: two where it is guided in
    one batch. A multiplication and an addition are two operations; "pixels" is the tokenizer's.
    """
    condition, null = condition[:COUNTED], null and null[:COUNTED]
    count = len(condition)
    seeds = image_seeds(0, torch.arange(count, device=pipe.device))
    with FlopCounterMode(display=False) as transformer, network_calls(pipe) as calls:
        tokens = pipe.sample_tokens(condition, seeds, sampling, null=null)
    with FlopCounterMode(display=False) as pixels:
        pipe.pixels(tokens)
    return {
        "sequential steps": len(pipe.plan(sampling)),
        "network calls": len(calls),
        "network passes": sum(calls) / count,
        "gigaflops": transformer.get_total_flops() / count / 1e9,
        "gigaflops of pixels": pixels.get_total_flops() / count / 1e9,
    }


@contextmanager
def network_calls(pipe: Pipeline) -> Iterator[list[int]]:
    """The images in each call of `hidden` of the networks that `pipe` holds, as they are made."""
    calls: list[int] = []
    networks: list[Any] = list({id(each): each for each in pipe.networks.values()}.values())

    def counted(hidden: Any) -> Any:
        def call(tokens: Tensor, *inputs: Any, **named: Any) -> Tensor:
            calls.append(len(tokens))
            return hidden(tokens, *inputs, **named)

        return call

    for network in networks:
        network.hidden = counted(network.hidden)
    try:
        yield calls
    finally:
        for network in networks:
            del network.hidden


def time_in_turns(
    pipe: Pipeline,
    condition: Condition,
    null: Captions | None,
    samplers: Mapping[str, SamplingConfig],
) -> Iterator[tuple[str, float, float]]:
    """Sample a batch, as `count_cost` has it, by each sampler in turn, ROUNDS times.

    Yields its name, seconds per image of the transformer alone, and with pixels.
    """
    count = len(condition)
    seeds = image_seeds(0, torch.arange(count, device=pipe.device))
    for _ in range(ROUNDS):
        for name, sampling in samplers.items():
            started = _now(pipe.device)
            tokens = pipe.sample_tokens(condition, seeds, sampling, null=null)
            sampled = _now(pipe.device)
            to_uint8(pipe.pixels(tokens))
            drawn = _now(pipe.device)
            yield name, (sampled - started) / count, (drawn - started) / count


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, to four digits."""
    found = {"median": median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, how busy it is, and versions."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return {
        "device": describe_device(device),
        "cpu": names[0] if names else "unknown",
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": versions(),
    }


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
