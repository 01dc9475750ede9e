"""The networks that are timed, their batches, and the keys of every benchmark that runs one.

"demo" is read from the recipe of the demo, so that it is the network which that trains.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from MaskGIL.config import load_config, require_at_least
from Network import NetworkConfig
from Network.config import setting
from Trainer.config import RunConfig

DEMO = load_config(
    RunConfig, Path(__file__).parent.parent / "MaskGIL/configs/demo/generator.yaml", []
)
NETWORKS = {"demo": DEMO.network, "B": NetworkConfig(size="B")}
BATCHES = {"demo": DEMO.optim.batch, "B": 4}


@dataclass(frozen=True)
class NetworkBenchmark:
    """What to measure."""

    sizes: tuple[Literal["demo", "B"], ...] = setting(("demo",), "networks")
    precision: tuple[Literal["fp32", "bf16"], ...] = setting(("fp32", "bf16"), "precisions")
    batch: int = setting(0, "images at a time; 0: as many as the demo trains with, 4 at B")
    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(2.0, "least duration of a turn")
    device: str = setting("auto", "auto, cuda, mps or cpu")

    def __post_init__(self):
        require_at_least("batch", self.batch, 0)
        require_at_least("rounds", self.rounds, 1)
