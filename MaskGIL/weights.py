"""Weights folders for users: `config.json` and safetensors, everything that sampling needs.

`weights/` of a run holds the generator (last and averaged weights), its tokenizer, the class names
and the sampler's defaults; that of a tokenizer's run holds the tokenizer alone.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_type_hints

import torch
from torch import Tensor

from MaskGIL.config import Objective, from_dict, to_dict
from MaskGIL.distributed import first_rank_first
from MaskGIL.durable import exchange, save_tensors
from MaskGIL.imagenet import NUM_CLASSES, imagenet_synsets
from MaskGIL.json_index import misfit
from MaskGIL.public import GENERATORS, public_file
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.values import choices, did_you_mean
from Network import build_network, build_tokenizer
from Network.config import NetworkConfig, TokenizerConfig, UserError
from Network.files import PICKLED, load_strict, read_tensors
from Network.generator_files import UNSHAPED, Generator, check_alike, read_generator
from Network.gpt import GPT
from Network.tokenizer.official import WEIGHTS
from Network.tokenizer.vq import VQTokenizer

FORMAT = 1
_TEXT = get_type_hints(TextOrigin)
NETWORK, NETWORK_EMA, TOKENIZER = "network.safetensors", "network-ema.safetensors", WEIGHTS


@dataclass(frozen=True)
class Weights:
    """A loaded weights folder; `network` is None in that of a tokenizer."""

    network: GPT | None
    tokenizer: VQTokenizer
    classes: list[str]
    sampling: SamplingConfig
    objective: str = "mar"  # what the network was trained for, a key of OBJECTIVES
    text: TextOrigin | None = None  # what made the features of captions, of a network that has any


def save_weights(
    folder: Path,
    tokenizer: VQTokenizer,
    *,
    network: GPT | None = None,
    last: Mapping[str, Tensor] | None = None,
    average: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    sampling: SamplingConfig | None = None,
    objective: str = "mar",
    text: TextOrigin | None = None,
) -> None:
    """Write a weights folder aside, then put it in the place of the old one.

    `last` are the weights of `network`, if not those that it has now. Without an `average` the
    network is all there is: weights of others, which came so.
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
        config |= {"network": to_dict(network.config), "classes": list(classes)}
        config |= {"sampling": to_dict(sampling or SamplingConfig()), "objective": objective}
        config |= {"text": text._asdict()} if text else {}
        _save(network.state_dict() if last is None else last, aside / NETWORK)
        if average is not None:
            _save(average, aside / NETWORK_EMA)
        else:
            config |= {"averaged": False}
    described = json.dumps(config, indent=1, ensure_ascii=False)
    (aside / "config.json").write_text(described, "utf-8")
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
    """Read a weights folder onto the CPU, or public weights by their name in `GENERATORS`.

    `ema` takes the averaged generator, where there are two. Raises UserError for a missing folder
    or file and for weights that do not fit.
    """
    if _is_public(folder):
        return _public_weights(str(folder))
    folder = Path(folder)
    config = read_config(folder)
    network = load_network(folder, ema=ema) if "network" in config else None
    classes = config.get("classes", [])
    sampling = from_dict(SamplingConfig, config["sampling"]) if network else SamplingConfig()
    objective = config.get("objective", "mar")  # as all were before it had a name
    text = TextOrigin(**config["text"]) if "text" in config else None
    return Weights(network, load_tokenizer(folder), classes, sampling, objective, text)


def load_network(path: str | Path, config: NetworkConfig | None = None, *, ema: bool = True) -> GPT:
    """A generator of a weights folder, of a file of ours with its `config`, or of a public file.

    It comes onto the CPU. Of a public file or name (see `read_network`) `config` is told, as far as
    its size is a published one. Raises UserError if there is no generator in it.
    """
    read, source = read_network(path, config, ema=ema)
    return _filled(read, source)


def read_network(
    path: str | Path, config: NetworkConfig | None = None, *, ema: bool = True
) -> tuple[Generator, Path]:
    """What `load_network` loads, as tensors by our names, and the file that it lies in.

    Where a folder has a `config` of its own, another must agree with it in what no shape tells.
    All ranks must come here with the name of public weights, which are fetched once.
    """
    if _is_public(path):
        with first_rank_first():
            file = public_file(str(path))
        read = read_generator(file, config)
        told = replace(read.config, grid=GENERATORS[str(path)].grid)
        return read._replace(config=config or told), file
    path = Path(path)
    if path.is_file() or path.suffix.lower() in (*PICKLED, ".safetensors"):
        return read_generator(path, config), path
    described = read_config(path)
    if "network" not in described:
        raise UserError(f"{path} holds a tokenizer, no generator; give weights=RUN/weights.")
    stored = from_dict(NetworkConfig, described["network"])
    if config:
        check_alike(path, {key: getattr(stored, key) for key in UNSHAPED}, config)
    file = path / (NETWORK_EMA if ema and described.get("averaged", True) else NETWORK)
    objective = described.get("objective", "mar")
    return Generator(config or stored, read_tensors(file), objective), file


def open_generator(file: Path, tokenizer: VQTokenizer, name: str = "") -> Weights:
    """A generator of a public file with the tokenizer whose tokens it makes.

    `name` is its row of `GENERATORS`, empty for a file that has none. Raises UserError if the
    codebooks differ.
    """
    row = GENERATORS.get(name)
    read = read_generator(file)
    config = replace(read.config, grid=row.grid) if row else read.config
    if config.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"{file} generates {config.codebook_size} codes, the tokenizer {tokenizer.name} has "
            f"{tokenizer.codebook_size}; name another one, tokenizer=NAME."
        )
    network = _filled(read._replace(config=config), file)
    classes = list(imagenet_synsets()) if config.num_classes == NUM_CLASSES else []
    sampling, text = (row.sampling, row.text) if row else (SamplingConfig(), None)
    return Weights(network, tokenizer, classes, sampling, read.objective, text)


def load_tokenizer(folder: str | Path) -> VQTokenizer:
    """The tokenizer of a weights folder, on the CPU. Raises UserError as `load_weights`."""
    described = read_config(Path(folder))["tokenizer"]
    config = from_dict(TokenizerConfig, described["config"])
    tokenizer = build_tokenizer(config, Path(folder) / TOKENIZER)
    if tokenizer.fingerprint != described["fingerprint"]:
        raise UserError(
            f"{folder}/{TOKENIZER} is not the file that config.json describes; "
            "write or download the weights again."
        )
    tokenizer.name = described["name"]
    return _ready(tokenizer)


def open_tokenizer(config: TokenizerConfig) -> VQTokenizer:
    """The tokenizer that a run asks for by `tokenizer.weights`, or by name. Raises UserError.

    For a name without weights the file of its authors is fetched once; all ranks must come here.
    """
    if config.name and config.weights:
        if not Path(config.weights).exists():
            raise UserError(
                f"No such file: tokenizer.weights={config.weights}; leave it empty, "
                f"tokenizer.weights=, and that of {config.name}'s authors is fetched."
            )
        return _ready(build_tokenizer(config.name, config.weights))
    if config.name:
        with first_rank_first():
            weights = public_file(config.name)
        return _ready(build_tokenizer(config.name, weights))
    if Path(config.weights).is_file():
        raise UserError(
            f"tokenizer.weights={config.weights} is a file, which does not say what it is; name "
            "the weights folder that it lies in, or give tokenizer.name=NAME beside it."
        )
    if not config.weights:
        raise UserError(
            "tokenizer.weights is empty; name the weights folder of a trained tokenizer, "
            "tokenizer.weights=runs/TOKENIZER/weights."
        )
    try:
        return load_tokenizer(config.weights)
    except UserError as error:
        if Path(config.weights).exists():
            raise
        raise UserError(
            f"{error} A public one: tokenizer.name=llamagen-vq16 tokenizer.weights="
        ) from None


def public_tokenizer(name: str) -> VQTokenizer:
    """The tokenizer of a row of `GENERATORS`, fetched first; all ranks must come here."""
    row = GENERATORS[name]
    with first_rank_first():
        file = public_file(row.tokenizer_file)
    return _ready(build_tokenizer(row.tokenizer, file))


def read_config(folder: Path) -> dict:
    """The `config.json` of a weights folder. Raises UserError if it is missing or damaged."""
    if folder.is_file():
        raise UserError(
            f"{folder} is a file; give the weights folder that it lies in, or make one of it and "
            f"of its tokenizer: python -m MaskGIL convert {folder} FOLDER tokenizer=NAME."
        )
    if not folder.is_dir():
        near = sorted(p.name for p in folder.parent.glob("[!.]*")) if folder.parent.is_dir() else []
        there = f" {folder.parent} holds: {', '.join(near[:8])}." if near else " Train it first."
        if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(folder)) and not near:
            fetch = f"hf download {folder} --local-dir {folder}"
            there = f" Train it first, or fetch it from the hub: {fetch}"
        there = did_you_mean(str(folder), GENERATORS) or there
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
        if found is None:
            raise UserError(
                f"{folder} is no weights folder of ours: its config.json is of another program; "
                "python -m MaskGIL convert makes one of a public file."
            )
        raise UserError(
            f"{file} has format {found}, this version reads {FORMAT}; take the version of the code "
            "that wrote it, or write the weights again."
        )
    if str(config.get("objective", "mar")) not in choices(Objective):
        raise UserError(f"{file} is damaged (objective); write the weights again.")
    needed = {"tokenizer", "classes", "sampling"} if "network" in config else {"tokenizer"}
    text = config.get("text")
    if isinstance(text, dict):  # what an earlier version has not told
        text = config["text"] = TextOrigin._field_defaults | text
    if text and (misfit(text, _TEXT, "text") or text["precision"] not in ("fp32", "bf16")):
        raise UserError(f"{file} is damaged (text); write the weights again.")
    if missing := sorted(needed - config.keys()):
        raise UserError(f"{file} is damaged (no {missing[0]!r}); write the weights again.")
    return config


def _is_public(path: str | Path) -> bool:
    return str(path) in GENERATORS and not Path(path).exists()


def _public_weights(name: str) -> Weights:
    """Generator and tokenizer of a row of `GENERATORS`, fetched first; all ranks come here."""
    with first_rank_first():
        file = public_file(name)
    return open_generator(file, public_tokenizer(name), name)


def _filled(read: Generator, source: object) -> GPT:
    """The network of what was read, its memory taken once."""
    with torch.device("meta"):
        network = build_network(read.config)
    network.to_empty(device="cpu")
    load_strict(network, read.state, source)
    return network.eval()


def _ready(tokenizer: VQTokenizer) -> VQTokenizer:
    """For inference, its kernels laid out as convolutions read them: else each call does it."""
    return tokenizer.eval().to(memory_format=torch.channels_last)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
