"""Scoring beside the usual ways: the matrix step of an FID, the Inception network, and memory.

The FID from means and covariances, beside scipy's square root of their product, as pytorch-fid and
ADM's evaluator have it: of more images than features, and of fewer, where ours may have the
features themselves. Inception in channels last beside torch-fidelity's own, of equal weights.
Precision, recall, density and coverage in a process of its own, whose peak of memory is told.
"""

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from paired import Case, Way, against_ours, command, in_turns, write
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.device import choose_device
from Metrics.inception import WIDTH, InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance, frechet_distance
from Metrics.jackknife import GROUPS
from Metrics.neighbourhoods import neighbourhoods
from Network.config import setting

CPU = torch.device("cpu")
OUTPUTS = [str(WIDTH), "logits_unbiased"]


@dataclass(frozen=True)
class MetricsBenchmark:
    """What to measure."""

    width: int = setting(2048, "numbers of a feature")
    num_real: int = setting(10_000, "reference images of precision and recall")
    num_generated: int = setting(50_000, "generated images of precision and recall")
    batch: int = setting(8, "images of 256x256 that go through Inception at once")
    device: str = setting("auto", "of Inception: auto, cuda, mps or cpu")
    rounds: int = setting(3, "how often every way has its turn")
    seconds: float = setting(1.0, "least duration of a turn")
    alone: bool = setting(False, "precision and recall in this process, whose peak is printed")

    def __post_init__(self):
        require_at_least("width", self.width, 8)
        require_at_least("batch", self.batch, 1)
        require_at_least("rounds", self.rounds, 1)


def main(config: MetricsBenchmark) -> None:
    if config.alone:
        print(json.dumps(precision_recall(config)))
        return
    again = [sys.executable, __file__, "alone=true"]
    again += [f"{key}={getattr(config, key)}" for key in ("width", "num_real", "num_generated")]
    done = subprocess.run(again, check=True, capture_output=True, text=True)
    cases: dict[str, Case] = {"precision, recall": json.loads(done.stdout.splitlines()[-1])}
    peak = cases["precision, recall"]["ours"]["peak_memory_bytes"]
    cases["FID, full rank"] = fid(config, 5 * config.width // 2)
    cases["FID, few images"] = fid(config, config.width - config.width // 40)
    with torch.inference_mode():
        cases["Inception"] = inception(config)
    write("metrics", "seconds and memory of scoring", to_dict(config), cases)
    print(f"precision, recall: {peak / 1e9:.2f} GB at most")


def precision_recall(config: MetricsBenchmark) -> Case:
    """All four scores with those without each group; the peak is of the process, libraries too."""
    real, generated = (
        features(count, config.width, seed)
        for seed, count in enumerate((config.num_real, config.num_generated))
    )
    started = time.perf_counter()
    neighbourhoods(real, generated, torch.arange(len(generated)) % GROUPS)
    case = against_ours({"ours": [time.perf_counter() - started]})
    unit = 1 if sys.platform == "darwin" else 1024
    case["ours"]["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return case


def fid(config: MetricsBenchmark, count: int) -> Case:
    """The distance of `count` images to more of another distribution."""
    generated, real = FeatureStatistics(), FeatureStatistics()
    generated.update(features(count, config.width, 0))
    real.update(1.05 * features(3 * config.width, config.width, 1) + 0.02)
    moments = (generated.mean, generated.covariance, real.mean, real.covariance)
    ways: dict[str, Way] = {
        "ours": partial(frechet_distance, *moments),
        "scipy sqrtm": partial(sqrtm, *moments),
    }
    if count <= config.width:
        ways["ours, from covariances"] = ways["ours"]
        ways["ours"] = partial(distance, generated, real)
    found: dict[str, float] = {}

    def noted(name: str, way: Way) -> None:
        found[name] = way()

    ways = {name: partial(noted, name, way) for name, way in ways.items()}
    case = against_ours(in_turns(ways, config.rounds, config.seconds, CPU))
    for name, value in found.items():
        case[name]["relative_difference"] = abs(value / found["scipy sqrtm"] - 1)
    return case


def sqrtm(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    root = scipy.linalg.sqrtm((covariance1 @ covariance2).numpy())
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace()
    return distance.item() - 2 * float(np.trace(root).real)


def inception(config: MetricsBenchmark) -> Case:
    """Seconds for a batch, and how far the outputs of the two are from each other at most."""
    device = choose_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        plain, path = fresh_inception(), Path(folder, "inception.pth")
        torch.save({k: v for k, v in plain.state_dict().items() if v.ndim}, path)
        ours = InceptionNetwork(path, device)
    shape = (config.batch, 3, 256, 256)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, generator=random, dtype=torch.uint8).to(device)
    ways = {
        "ours": partial(ours.outputs, images),
        "torch-fidelity": partial(plain.to(device), images),
    }
    case = against_ours(in_turns(ways, config.rounds, config.seconds, device))
    apart = ways["ours"]().features - ways["torch-fidelity"]()[0].cpu()
    case["ours"]["most_apart"] = apart.abs().max().item()
    return case


class FreshInception(FeatureExtractorInceptionV3):
    """Takes any file for its weights and keeps those it was made with: it is as fast."""

    def load_state_dict(self, *_words: Any, **_keys: Any) -> Any:
        """Loads nothing."""


def fresh_inception() -> FeatureExtractorInceptionV3:
    torch.manual_seed(0)
    torch.save({}, nothing := io.BytesIO())
    nothing.seek(0)
    return FreshInception("fresh", OUTPUTS, feature_extractor_weights_path=nothing)


def features(count: int, width: int, seed: int) -> Tensor:
    """Gaussian features (N, D), whose spectrum decays and whose neighbours correlate."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=random)
    rows += 0.6 * rows.roll(1, 1)
    return rows / (1 + 15 * torch.arange(width) / width) + 0.4


if __name__ == "__main__":
    sys.exit(command(main, MetricsBenchmark, "metrics", __doc__ or ""))
