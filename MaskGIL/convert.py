"""`python -m MaskGIL convert SOURCE OUT`: weights and tokens of others in our formats, and back.

What SOURCE is, is told by looking. OUT is written aside and renamed when it is whole: a conversion
that was interrupted leaves nothing at OUT and is begun anew.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from MaskGIL.cache import cache_size
from MaskGIL.cache_index import CHUNK, UNKNOWN, Index, dtype_of, new_index
from MaskGIL.command import Flags
from MaskGIL.data.folders import UnreadableImage
from MaskGIL.durable import replace_file, sha256, to_json, write_durably
from MaskGIL.foreign_generators import is_generator, open_foreign_generator
from MaskGIL.foreign_tokens import CODES, LABELS, ForeignTokens, Row, open_foreign_tokens
from MaskGIL.imagenet import NUM_CLASSES, imagenet_synsets
from MaskGIL.model_card import write_card
from MaskGIL.output import check_writable, output_path
from MaskGIL.public import GENERATORS, describe, licence_of, public_file
from MaskGIL.tokenizer_source import find_tokenizer
from MaskGIL.values import did_you_mean
from MaskGIL.weights import load_tokenizer, read_config, save_weights
from Network import build_tokenizer
from Network.config import UserError, setting
from Network.files import PICKLED
from Network.tokenizer import NAMED
from Network.tokenizer.official import official_names
from Network.tokenizer.vq import VQTokenizer

MOST_CLASSES = 100_000  # a larger label is none: ImageNet-21k has 21,841 classes
USED = "quantize.codebook_used"  # LlamaGen's strict reader wants it; nothing depends on it
USED_LENGTH = 65_536  # of vq_model.py


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and where to."""

    source: str = setting(
        "",
        "file of a public tokenizer or generator, or its name; weights folder of ours; LlamaGen's "
        "folder of codes, or a .jsonl file of tokens as RAR's",
    )
    out: str = setting("", "weights folder, token cache or (to=official) .safetensors file to make")
    to: Literal["ours", "official"] = setting(
        "ours", "our format, or official: the tokenizer of a weights folder by its authors' names"
    )
    tokenizer: str = setting(
        "",
        "name of the tokenizer in a file; of a generator that of its tokens, or a weights folder; "
        "of tokens the one that made them: a weights folder, NAME or NAME:FILE",
    )
    classes: str = setting("", "of tokens: text file with the name of each class, a line each")


def convert(config: ConvertConfig, flags: Flags) -> None:
    """Write `config.source` to `config.out` in another format, and tell what was written.

    Raises UserError for an `out` that exists and for a source that is of no known kind or damaged.
    """
    if not config.source or not config.out:
        raise UserError("source or out is empty: python -m MaskGIL convert SOURCE OUT.")
    source, out = Path(config.source), Path(config.out)
    if out.exists():
        raise UserError(f"out={out} exists already; name a new one, or delete it first.")
    check_writable("out", out.absolute().parent)
    is_ours = (source / "config.json").is_file()
    tokens = None if is_ours else open_foreign_tokens(source)
    if config.classes and tokens is None:
        raise UserError(f"classes is for tokens of others, and {source} holds none; leave it out.")
    if config.to == "official":
        _write_official(config, flags)
    elif is_ours:
        read_config(source)  # that of others is not to be called ours
        raise UserError(
            f"{source} is a weights folder of ours already; say to=official out=FILE.safetensors "
            "for the names of its authors."
        )
    elif tokens is not None:
        _convert_tokens(tokens, config, flags)
    elif source.is_dir() or not (source.exists() or config.source in (*NAMED, *GENERATORS)):
        _refuse(source)
    elif _is_known(source) and is_generator(config.source):
        _convert_generator(config, flags)
    else:
        _convert_weights(config, flags)


def _refuse(source: Path) -> NoReturn:
    if source.name.endswith((CODES, LABELS)) and source.is_dir():
        raise UserError(f"{source} is one of two folders of a data set; give {source.parent}.")
    if source.exists():
        raise UserError(
            f"{source} holds nothing that can be converted: neither config.json nor folders "
            "NAME_codes and NAME_labels."
        )
    names = (*NAMED, *GENERATORS)
    hint = did_you_mean(source.name, names)
    raise UserError(f"No such source: {source}.{hint} Names are {', '.join(names)}.")


def _is_known(source: Path) -> bool:
    """Whether a file ends as those that are converted; a name does not have to."""
    return not source.exists() or source.suffix.lower() in (*PICKLED, ".safetensors")


# ------------------------------------------------------------------------------------- weights
def _convert_weights(config: ConvertConfig, flags: Flags) -> None:
    """The tokenizer of a public file, fetched first if it is only named -> a folder of ours."""
    source, out, name = Path(config.source), Path(config.out), config.tokenizer
    if not source.exists():
        if name not in ("", config.source):
            raise UserError(
                f"source={source} and tokenizer={name} name two tokenizers; leave tokenizer out."
            )
        name = config.source
        source = None if flags.dry_run else public_file(name)
    elif not _is_known(source):
        kinds = ", ".join((*PICKLED, ".safetensors", ".jsonl"))
        raise UserError(f"{source} is of no known kind: files to convert end in {kinds}.")
    elif not name:
        raise UserError(
            f"tokenizer is empty; name the one in {source}, tokenizer=NAME: {', '.join(NAMED)}."
        )
    tokenizer = build_tokenizer(name, source)
    if source is None:
        _say("would fetch", describe(name))
    if flags.dry_run:
        _say("would write", f"{out}, a weights folder")
    else:
        save_weights(out, tokenizer)
        write_card(out, licence_of(config.source))
        _say("wrote", f"{out}, a weights folder and its card")
    _tell(tokenizer, known=source is not None)


def _convert_generator(config: ConvertConfig, flags: Flags) -> None:
    """A generator of others, fetched first if it is only named -> a folder of ours."""
    out, source = Path(config.out), config.source
    if flags.dry_run:
        if source in GENERATORS:
            for name in (source, GENERATORS[source].tokenizer_file):
                _say("would fetch", describe(name))
        _say("would write", f"{out}, a weights folder")
        return
    weights = open_foreign_generator(source, config.tokenizer)
    network = weights.network
    assert network is not None
    save_weights(
        out,
        weights.tokenizer,
        network=network,
        classes=weights.classes,
        sampling=weights.sampling,
        objective=weights.objective,
        text=weights.text,
    )
    write_card(out, licence_of(source))
    made_of, (height, width) = network.config, network.config.grid
    count = sum(parameter.numel() for parameter in network.parameters())
    _say("wrote", f"{out}, a weights folder and its card")
    _say("generator", f"{made_of.kind}, {count:,} parameters, objective={weights.objective}")
    _say("tokens", f"{height}x{width} of {made_of.codebook_size} codes")
    _tell(weights.tokenizer)


def _write_official(config: ConvertConfig, flags: Flags) -> None:
    """The tokenizer of a weights folder of ours -> a file by the names of its authors."""
    out, tokenizer = output_path("out", config.out, ".safetensors"), load_tokenizer(config.source)
    if flags.dry_run:
        _say("would write", out)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, save(official_tensors(tokenizer)))
        _say("wrote", out)
    _tell(tokenizer)


def official_tensors(tokenizer: VQTokenizer) -> dict[str, Tensor]:
    """The weights of a tokenizer by the names that the code of its family's authors reads."""
    family, state = tokenizer.config.family, tokenizer.state_dict()
    names = official_names(state, family)
    tensors = {names[name]: tensor.contiguous() for name, tensor in state.items()}
    return tensors | ({USED: torch.zeros(USED_LENGTH)} if family == "llamagen" else {})


def _tell(tokenizer: VQTokenizer, known: bool = True) -> None:
    size = sum(tensor.nbytes for tensor in tokenizer.state_dict().values())
    _say("tokenizer", f"{tokenizer.name}, {tokenizer.codebook_size} codes, {size:,} bytes")
    if known:
        _say("", f"fingerprint {tokenizer.fingerprint[:16]}")


# -------------------------------------------------------------------------------------- tokens
@dataclass
class _Unseen:
    """Images of which only tokens are known; they are named by their rows."""

    labels: np.ndarray
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        raise UnreadableImage(self.name(index), "only its tokens are known")


def _convert_tokens(tokens: ForeignTokens, config: ConvertConfig, flags: Flags) -> None:
    """Tokens of others -> a token cache of ours."""
    if not config.tokenizer:
        raise UserError(
            f"tokenizer is empty; name the one that made {config.source}: a weights folder, or "
            f"NAME or NAME:FILE, with NAME one of {', '.join(NAMED)}."
        )
    made_by, out = find_tokenizer("tokenizer", config.tokenizer), Path(config.out)
    names = _read_names(Path(config.classes)) if config.classes else []
    crops, height, width = tokens.shape()
    codes = made_by.described.codebook_size
    size = cache_size(tokens.num_rows, crops, (height, width), codes)
    free = shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free
    if size > free:
        raise UserError(
            f"out={out} needs {size / 1e9:.1f} GB, its disk has only {free / 1e9:.1f} GB left; "
            "choose another disk."
        )
    if unread := flags.dry_run and made_by.is_public:
        _say("would fetch", describe(made_by.value))
    tokenizer = made_by.described if unread else made_by.open()
    if flags.dry_run:
        _say("would write", f"{out}, a token cache")
    else:
        num_classes = _write_tokens(tokens, tokenizer, names, out)
        _say("wrote", f"{out}, a token cache of {num_classes:,} classes")
    _say("images", f"{tokens.num_rows:,} of {crops} crops ({tokens.format})")
    _say("tokens", f"{height}x{width} of {codes} codes, {size:,} bytes in all")
    known = "" if unread else f", fingerprint {tokenizer.fingerprint[:16]}"
    _say("tokenizer", f"{tokenizer.name}{known}")


def _read_names(file: Path) -> list[str]:
    """A class name per line. Raises UserError for an empty one and for one that comes twice."""
    try:
        names = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"classes={file} cannot be read ({error}); give a text file.") from None
    if not names or "" in names or len(set(names)) < len(names):
        raise UserError(f"classes={file} must have a name in each line, no two alike.")
    return names


def _write_tokens(
    tokens: ForeignTokens, tokenizer: VQTokenizer, names: Sequence[str], out: Path
) -> int:
    """Write the cache aside, then rename it; return its number of classes."""
    aside = out.with_name(out.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)  # what a kill has left
    try:
        aside.mkdir(parents=True)
        rows = tokens.rows(tokenizer.codebook_size, len(names) or MOST_CLASSES)
        bar = tqdm(rows, total=tokens.num_rows, unit="img", leave=False, disable=None)
        hashes, labels = _write_chunks(aside / "tokens.bin", iter(bar), tokenizer.codebook_size)
        names = names or _default_names(int(labels.max()) + 1)
        index = _index(tokens, tokenizer, _Unseen(labels, names), hashes)
        (aside / "tokens.bin").rename(aside / index["parts"][0]["file"])
        replace_file(aside / "labels.bin", labels.tobytes())
        replace_file(aside / "index.json", to_json(index))
        os.replace(aside, out)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"Cannot make {out}: {error}; choose another place.") from error
        raise
    return len(names)


def _write_chunks(
    file: Path, rows: Iterator[Row], codebook_size: int
) -> tuple[list[str], np.ndarray]:
    """Append the codes of all rows; return the sha256 of each chunk, and labels (R,) int32."""
    hashes, labels = [], []
    with file.open("wb") as stream:
        while chunk := list(islice(rows, CHUNK)):
            data = np.stack([row.codes for row in chunk]).astype(dtype_of(codebook_size)).tobytes()
            stream.write(data)
            hashes.append(sha256(data))
            labels.append(np.array([row.label for row in chunk], "<i4"))
        write_durably(stream, b"")
    return hashes, np.concatenate(labels)


def _default_names(num_classes: int) -> Sequence[str]:
    """ImageNet's ids if there are as many; their order is that of all who sort its folders."""
    if num_classes == NUM_CLASSES:
        return imagenet_synsets()
    return [str(label) for label in range(num_classes)]


def _index(
    tokens: ForeignTokens, tokenizer: VQTokenizer, images: _Unseen, hashes: list[str]
) -> Index:
    """The complete index. How the images were cropped and encoded, the sources do not say."""
    crops, side, _ = tokens.shape()
    image_size = side * tokenizer.stride
    index = new_index(images, tokenizer, "center", image_size, encode_batch=0)
    index["parts"][0] |= {"crops": crops, "sha256": hashes}
    index["transform"] = {"image_size": image_size, "crops": tokens.format, "precision": UNKNOWN}
    return index | {"labels_sha256": sha256(images.labels.tobytes()), "complete": True}


def _say(name: str, fact: object) -> None:
    print(f"{name:12s} {fact}")
