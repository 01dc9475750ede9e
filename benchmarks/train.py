"""One optimiser step of our network beside the same step of a plain one, and of the published one.

Forward, loss, backward, clip and AdamW, on the same batch and with the same dropout. Ours applies
its head to the hidden tokens alone, as Trainer/vit.py does. Of our weights and our mathematics
(benchmarks/plain.py) "plain" applies the head to all tokens and masks the loss; "plain, same rows"
takes our rows, so what is left between it and ours is the network; "plain, unfused attention" has
attention as ours computes it on a CPU in bf16. "published recipe" is the published network with its
own loss and optimiser (benchmarks/original.py). A bf16 case has two of them in fp32 as well.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from networks import BATCHES, NETWORKS, NetworkBenchmark
from original import original_loss, original_network, original_optimizer
from paired import Case, Way, command, compare, write
from plain import plain_copy, unfused_attention
from torch import Tensor, nn

from MaskGIL.config import MaskingConfig, require_within, to_dict
from MaskGIL.device import DTYPES, autocast, choose_device
from MaskGIL.masking import (
    counted_rows,
    draw_mask,
    hidden_counts,
    mask_tokens,
    masked_loss,
    max_hidden,
)
from Network import NetworkConfig, build_network
from Network.config import setting
from Network.gpt import GPT
from Trainer.config import OptimConfig
from Trainer.optim import EMA, build_optimizer, gradient_norm
from Trainer.vit import RowLogits

MASKING, OPTIM = MaskingConfig(), OptimConfig()
AUTOCAST_FREE = ("plain", "published recipe")  # what a bf16 step of ours is compared with, too
Losses = dict[str, tuple[nn.Module, Callable[[], Tensor]]]


@dataclass(frozen=True)
class TrainBenchmark(NetworkBenchmark):
    """What to measure."""

    sizes: tuple[Literal["demo", "B"], ...] = setting(("demo", "B"), "networks")
    dropout: float = setting(0.1, "dropout of every way: the published recipe has 0.1")

    def __post_init__(self):
        super().__post_init__()
        require_within("dropout", self.dropout, 0, 0.9)


def main(config: TrainBenchmark) -> None:
    device = choose_device(config.device)
    cases: dict[str, Case] = {}
    for size in config.sizes:
        network = replace(NETWORKS[size], dropout=config.dropout)
        batch = Batch(network, config.batch or BATCHES[size], device)
        ways = steps(network, batch, device)
        for precision in config.precision:
            dtype = DTYPES[precision]
            own: dict[str, Way] = {name: partial(way, dtype) for name, way in ways.items()}
            if precision != "fp32":
                own |= {f"{name}, fp32": ways[name] for name in AUTOCAST_FREE}
            others = {name: torch.float32 for name in own if name.endswith(", fp32")}
            cases[f"{size} {precision}"] = compare(
                own, dtype, device, config.rounds, config.seconds, others
            )
    write("train", "seconds of one optimiser step", to_dict(config), cases)


class Batch:
    """Random tokens and labels (B,), masked as in training."""

    def __init__(self, config: NetworkConfig, size: int, device: torch.device) -> None:
        num_tokens, codes = config.grid[0] * config.grid[1], config.codebook_size
        counts = torch.from_numpy(hidden_counts(MASKING.schedule, size, num_tokens, 0, 0))
        random = torch.Generator().manual_seed(0)
        tokens = torch.randint(codes, (size, *config.grid), generator=random)
        labels = torch.randint(config.num_classes + 1, (size,), generator=random)
        mask = draw_mask(counts, 0, torch.arange(size), num_tokens)
        self.labels, self.mask, self.mask_id = labels.to(device), mask.to(device), codes
        self.hide(tokens.to(device))
        self.bound = max_hidden(MASKING.schedule, size, size, num_tokens)
        self.total = counts.sum().float().to(device)

    def hide(self, tokens: Tensor) -> None:
        """Put other tokens (B, h, w) under the same mask."""
        self.tokens = tokens
        self.masked = mask_tokens(tokens, self.mask.view_as(tokens), self.mask_id)


@dataclass(frozen=True)
class Step:
    """Forward, loss, backward, clip and optimiser, and the average of the weights if there is."""

    module: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    average: EMA | None = None

    def __call__(self, dtype: torch.dtype = torch.float32) -> None:
        """Make the step, its matrix products in `dtype`."""
        with autocast(next(self.module.parameters()).device, dtype):
            value = self.loss()
        value.backward()
        gradient_norm(self.module.parameters(), OPTIM.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.module, 10**6)


def steps(config: NetworkConfig, batch: Batch, device: torch.device) -> dict[str, Step]:
    """Every way to make a step; but for the EMA each has a network and an optimiser of its own."""
    torch.manual_seed(0)
    network = build_network(config).to(device)
    nn.init.normal_(network.output.weight, std=0.02)  # a head of zeros would hide differences
    plain = [plain_copy(network, network.config) for _ in range(2)]
    unfused = plain_copy(network, network.config, unfused_attention)
    ours = own_step(network, batch)
    losses: Losses = {
        "ours": (network, ours.loss),
        "plain": (plain[0], lambda: loss_of_all(plain[0], batch)),
        "plain, same rows": (plain[1], lambda: loss_of_rows(plain[1], batch)),
        "plain, unfused attention": (unfused, lambda: loss_of_all(unfused, batch)),
    }
    check_equal(losses)
    plainly = {
        name: Step(module, loss, build_optimizer(module, OPTIM))
        for name, (module, loss) in losses.items()
        if module is not network
    }
    return {
        "ours": ours,
        **plainly,
        "ours, with EMA": replace(ours, average=EMA(network, OPTIM.ema)),
        "published recipe": published_step(config, batch, device),
    }


def own_step(network: GPT, batch: Batch) -> Step:
    """Our step, with a fresh optimiser."""
    objective = RowLogits(network.train())
    optimizer = build_optimizer(network, OPTIM)
    return Step(network, lambda: loss_of_rows(objective, batch), optimizer)


def published_step(config: NetworkConfig, batch: Batch, device: torch.device) -> Step:
    """The published step, of a fresh network of its own kind."""
    network = original_network(config).to(device)

    def loss() -> Tensor:
        return original_loss(network, batch.masked, batch.labels, batch.tokens)

    return Step(network, loss, original_optimizer(network))


def check_equal(losses: Losses) -> None:
    """Refuse ways that do not compute the same; dropout, which draws, is off meanwhile."""
    with torch.no_grad():
        first = torch.stack([_without_dropout(*way) for way in losses.values()])
    assert torch.allclose(first, first[0], rtol=1e-5), "the ways do not compute the same"


def _without_dropout(module: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    module.eval()
    value = loss()
    module.train()
    return value


def loss_of_rows(network: nn.Module, batch: Batch) -> Tensor:
    rows, weights = counted_rows(batch.mask, batch.bound)
    logits, targets = network(batch.masked, batch.labels, rows), batch.tokens.flatten()[rows]
    return masked_loss(logits, targets, weights, batch.total, MASKING.label_smoothing)[0]


def loss_of_all(network: nn.Module, batch: Batch) -> Tensor:
    logits = network(batch.masked, batch.labels).flatten(0, 1).float()
    targets = batch.tokens.flatten().masked_fill(~batch.mask.flatten(), -100)  # -100: not counted
    return F.cross_entropy(logits, targets, label_smoothing=MASKING.label_smoothing)


if __name__ == "__main__":
    sys.exit(command(main, TrainBenchmark, "train", __doc__ or ""))
