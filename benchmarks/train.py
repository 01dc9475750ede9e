"""One optimiser step of our network beside the same step of a plain one (benchmarks/plain.py).

Forward, loss, backward, clip and AdamW, same weights and same batch. Ours applies its head to the
hidden tokens alone, as Trainer/vit.py does; "plain" applies it to all tokens and masks the loss;
"plain, same rows" takes our rows, so what is left between it and ours is the network. "plain,
unfused attention" is "plain" with attention as ours computes it on a CPU in bf16.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from networks import BATCHES, NETWORKS, NetworkBenchmark
from paired import Case, Way, command, compare, write
from plain import plain_copy, unfused_attention
from torch import Tensor, nn

from MaskGIL.config import MaskingConfig, to_dict
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
from Trainer.config import OptimConfig
from Trainer.optim import build_optimizer, gradient_norm
from Trainer.vit import RowLogits

MASKING, OPTIM = MaskingConfig(), OptimConfig()


@dataclass(frozen=True)
class TrainBenchmark(NetworkBenchmark):
    """What to measure."""

    sizes: tuple[Literal["demo", "B"], ...] = setting(("demo", "B"), "networks")


def main(config: TrainBenchmark) -> None:
    device = choose_device(config.device)
    cases: dict[str, Case] = {}
    for size in config.sizes:
        batch = Batch(NETWORKS[size], config.batch or BATCHES[size], device)
        for precision in config.precision:
            dtype = DTYPES[precision]
            ways = steps(NETWORKS[size], batch, dtype, device)
            case = compare(ways, dtype, device, config.rounds, config.seconds)
            cases[f"{size} {precision}"] = case
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
        self.masked = mask_tokens(tokens, mask.view_as(tokens), codes).to(device)
        self.tokens, self.labels, self.mask = (x.to(device) for x in (tokens, labels, mask))
        self.bound = max_hidden(MASKING.schedule, size, size, num_tokens)
        self.total = counts.sum().float().to(device)


def steps(
    config: NetworkConfig, batch: Batch, dtype: torch.dtype, device: torch.device
) -> dict[str, Way]:
    """Every way to make a step, each with a network and an optimiser of its own."""
    torch.manual_seed(0)
    network = build_network(config).to(device)
    nn.init.normal_(network.output.weight, std=0.02)  # a head of zeros would hide differences
    plain = [plain_copy(network, network.config) for _ in range(2)]
    unfused = plain_copy(network, network.config, unfused_attention)
    objective = RowLogits(network)
    losses = {
        "ours": (network, lambda: loss_of_rows(objective, batch)),
        "plain": (plain[0], lambda: loss_of_all(plain[0], batch)),
        "plain, same rows": (plain[1], lambda: loss_of_rows(plain[1], batch)),
        "plain, unfused attention": (unfused, lambda: loss_of_all(unfused, batch)),
    }
    with torch.no_grad():
        first = torch.stack([loss() for _, loss in losses.values()])
    assert torch.allclose(first, first[0], rtol=1e-5), "the ways do not compute the same"
    return {name: step(module, loss, dtype, device) for name, (module, loss) in losses.items()}


def step(module: nn.Module, loss: Way, dtype: torch.dtype, device: torch.device) -> Way:
    optimizer = build_optimizer(module, OPTIM)

    def way() -> None:
        with autocast(device, dtype):
            value = loss()
        value.backward()
        gradient_norm(module.parameters(), OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return way


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
