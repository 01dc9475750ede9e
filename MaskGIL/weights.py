"""Weights folders for users: `config.json` and safetensors, everything that sampling needs.

`weights/` of a run holds the generator (last and averaged weights), its tokenizer, the class names
and the sampler's defaults; that of a tokenizer's run holds the tokenizer alone.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from MaskGIL.config import SamplingConfig, from_dict, to_dict
from MaskGIL.distributed import first_rank_first
from MaskGIL.durable import exchange
from MaskGIL.public import public_file
from Network import build_network, build_tokenizer
from Network.config import NetworkConfig, TokenizerConfig, UserError
from Network.files import load_strict, read_tensors
from Network.gpt import GPT
from Network.tokenizer.official import WEIGHTS
from Network.tokenizer.vq import VQTokenizer

FORMAT = 1
NETWORK, NETWORK_EMA, TOKENIZER = "network.safetensors", "network-ema.safetensors", WEIGHTS


@dataclass(frozen=True)
class Weights:
    """A loaded weights folder; `network` is None in that of a tokenizer."""

    network: GPT | None
    tokenizer: VQTokenizer
    classes: list[str]
    sampling: SamplingConfig


def save_weights(
    folder: Path,
    tokenizer: VQTokenizer,
    *,
    network: GPT | None = None,
    last: Mapping[str, Tensor] | None = None,
    average: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    sampling: SamplingConfig | None = None,
) -> None:
    """Write a weights folder aside, then put it in the place of the old one.

    `last` are the weights of `network`, if not those that it has now.
    """
    aside, old = (folder.with_name(folder.name + end) for end in (".tmp", ".old"))
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    config = {
        "format": FORMAT,
        "tokenizer": {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "config": to_dict(replace(tokenizer.config, weights="")),
        },
    }
    _save(tokenizer.state_dict(), aside / TOKENIZER)
    if network is not None:
        assert average is not None
        config |= {"network": to_dict(network.config), "classes": list(classes)}
        config |= {"sampling": to_dict(sampling or SamplingConfig())}
        _save(network.state_dict() if last is None else last, aside / NETWORK)
        _save(average, aside / NETWORK_EMA)
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (aside / "config.json").write_text(text, "utf-8")
    for file in aside.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if folder.exists() and exchange(aside, folder):
        shutil.rmtree(aside)
        return
    if folder.exists():  # else `old` may be all that a kill has left
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_weights(folder: str | Path, *, ema: bool = True) -> Weights:
    """Read a weights folder onto the CPU; `ema` takes the averaged generator.

    Raises UserError for a missing folder or file and for weights that do not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    network = load_network(folder, ema=ema) if "network" in config else None
    classes = config.get("classes", [])
    sampling = from_dict(SamplingConfig, config["sampling"]) if network else SamplingConfig()
    return Weights(network, load_tokenizer(folder), classes, sampling)


def load_network(path: str | Path, config: NetworkConfig | None = None, *, ema: bool = True) -> GPT:
    """A generator of a weights folder, or of one safetensors file and its `config`; on the CPU.

    Raises UserError if the folder holds no generator, or if a file comes without a `config`.
    """
    path = Path(path)
    file = path
    if path.suffix != ".safetensors":
        described = read_config(path)
        if "network" not in described:
            raise UserError(f"{path} holds a tokenizer, no generator; give weights=RUN/weights.")
        config = config or from_dict(NetworkConfig, described["network"])
        file = path / (NETWORK_EMA if ema else NETWORK)
    if config is None:
        raise UserError(f"{path} is a bare file; give its folder, with config.json beside it.")
    with torch.device("meta"):
        network = build_network(config)
    network.to_empty(device="cpu")
    load_strict(network, read_tensors(file), file)
    return network.eval()


def load_tokenizer(folder: str | Path) -> VQTokenizer:
    """The tokenizer of a weights folder, on the CPU. Raises UserError as `load_weights`."""
    described = read_config(Path(folder))["tokenizer"]
    config = from_dict(TokenizerConfig, described["config"])
    tokenizer = build_tokenizer(config, Path(folder) / TOKENIZER)
    if tokenizer.fingerprint != described["fingerprint"]:
        raise UserError(f"{folder}/{TOKENIZER} is not the file that config.json describes.")
    tokenizer.name = described["name"]
    return _ready(tokenizer)


def open_tokenizer(config: TokenizerConfig) -> VQTokenizer:
    """The tokenizer that a run asks for by `tokenizer.weights`, or by name. Raises UserError.

    For a name without weights the file of its authors is fetched once; all ranks must come here.
    """
    if config.name and config.weights:
        return _ready(build_tokenizer(config.name, config.weights))
    if config.name:
        with first_rank_first():
            weights = public_file(config.name)
        return _ready(build_tokenizer(config.name, weights))
    if not config.weights:
        raise UserError(
            "tokenizer.weights is empty; name the weights folder of a trained tokenizer, "
            "tokenizer.weights=runs/TOKENIZER/weights."
        )
    return load_tokenizer(config.weights)


def read_config(folder: Path) -> dict:
    """The `config.json` of a weights folder. Raises UserError if it is missing or damaged."""
    if not folder.is_dir():
        near = sorted(p.name for p in folder.parent.iterdir()) if folder.parent.is_dir() else []
        there = f" {folder.parent} holds: {', '.join(near[:8])}." if near else " Train it first."
        if (kept := folder.with_name(f"{folder.name}.old")).is_dir():
            there = f" A save was cut short and left {kept}: rename it to {folder.name}."
        raise UserError(f"No such weights folder: {folder}.{there}")
    file = folder / "config.json"
    if not file.is_file():
        nested = [p.parent for p in sorted(folder.glob("**/weights/config.json"))][:3]
        hint = f" Did you mean {' or '.join(map(str, nested))}?" if nested else ""
        raise UserError(f"{folder} is no weights folder: it has no config.json.{hint}")
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); write the weights again.") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise UserError(f"{file} has format {found}, this version reads {FORMAT}.")
    needed = {"tokenizer", "classes", "sampling"} if "network" in config else {"tokenizer"}
    if missing := sorted(needed - config.keys()):
        raise UserError(f"{file} is damaged (no {missing[0]!r}); write the weights again.")
    return config


def _ready(tokenizer: VQTokenizer) -> VQTokenizer:
    """For inference, its kernels laid out as convolutions read them: else each call does it."""
    return tokenizer.eval().to(memory_format=torch.channels_last)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
