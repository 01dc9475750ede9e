"""The card of a weights folder: what it is and how it is used, as `README.md` of a repository.

All of it is read from the folder, so a card says nothing that the weights do not.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from MaskGIL.config import from_dict, to_dict
from MaskGIL.durable import replace_file
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import public_name
from MaskGIL.values import show_value
from MaskGIL.weights import NETWORK, TOKENIZER, read_config

CARD = "README.md"
CLASSES_SHOWN = 12
PAPER = "[MaskGIL](https://arxiv.org/abs/2507.13032)"


def model_card(
    folder: Path,
    repository: str = "",
    licence: str = "",
    code: str = "",
    scores: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with the hub's header, of a weights folder.

    It will be fetched from `repository`, OWNER/NAME; without one it is used where it is, of which
    an absolute path has the last part alone, as others may read the card. `code` is the address of
    the code that reads it, `scores` a record of FID_sample.py about it.
    Raises UserError if the folder cannot be read.
    """
    config = read_config(folder)
    has_prompts = bool(config.get("network", {}).get("caption_width"))
    header = {
        "library_name": "maskgil",
        "license": licence,
        "pipeline_tag": "text-to-image" if has_prompts else "unconditional-image-generation",
        "tags": ["image-generation", "masked-image-modeling", "vector-quantization"],
    }
    if "network" not in config:
        header.pop("pipeline_tag")
    parts = [
        _yaml(header),
        f"# {repository.rpartition('/')[2] or folder.name}",
        _generator(folder, config) if "network" in config else _tokenizer(folder, config),
        _scores(scores) if scores else "",
        _use(config, folder, repository, code),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def write_card(folder: Path, licence: str = "") -> None:
    """Put a card into a weights folder, which is used where it is."""
    replace_file(folder / CARD, model_card(folder, licence=licence).encode())


def _yaml(header: Mapping[str, Any]) -> str:
    """The lines between dashes that the hub reads; what is empty is left out."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items() if value]
    return "\n".join(["---", *lines, "---"])


def _generator(folder: Path, config: Mapping[str, Any]) -> str:
    network, (height, width) = config["network"], config["network"]["grid"]
    kinds = {"mar": "many tokens a step", "ar": "one token a step", "both": "both ways"}
    rows = {
        "generator": f"{network['depth']} blocks of width {network['width']}, "
        f"{network['heads']} heads, {_parameters(folder / NETWORK)}",
        "tokens": f"{height}x{width} of {network['codebook_size']} codes",
        "learned to draw": kinds[config.get("objective", "mar")],
        "tokenizer": _name_of_tokenizer(config),
    }
    if network["caption_width"]:
        text = config.get("text") or {}
        rows["prompts"] = (
            f"{network['caption_tokens']} tokens by {public_name(text.get('encoder', 'unknown'))}, "
            f"fingerprint {text.get('fingerprint', '')[:16] or 'not told'}"
        )
    else:
        rows["classes"] = _classes(config["classes"], network["num_classes"])
    averaged = (
        "averaged, and those of the last step" if config.get("averaged", True) else "as they are"
    )
    rows["weights"] = f"{averaged}, {(folder / NETWORK).stat().st_size / 1e6:,.1f} MB each"
    sampling = from_dict(SamplingConfig, config["sampling"])
    plain = to_dict(SamplingConfig())
    rows["sampler"] = ", ".join(
        f"{key}={show_value(value)}"
        for key, value in to_dict(sampling).items()
        if value != plain[key] or key == "num_steps"
    )
    return f"A generator of images as grids of discrete tokens, after {PAPER}.\n\n{_table(rows)}"


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> str:
    rows = {"tokenizer": _name_of_tokenizer(config), "size": _parameters(folder / TOKENIZER)}
    return f"A tokenizer of images, for generators after {PAPER}.\n\n{_table(rows)}"


def _scores(record: Mapping[str, Any]) -> str:
    """What was measured, how sure it is, and on which samples."""
    published = {"FID": "fid", "sFID": "sfid", "inception score": "inception_score"}
    numbers = {name: record.get(key) for name, key in published.items()} | record["metrics"]
    rows = {}
    for name, value in numbers.items():
        if isinstance(value, int | float):  # the others are tables, or there are too few images
            ends = record.get("intervals", {}).get(name)
            sure = f" (95 %: {ends['low']:.4g} to {ends['high']:.4g})" if ends else ""
            rows[name] = f"{value:.4g}{sure}"
    samples, reference = record["samples"], record.get("reference")
    against = ""
    if reference:
        count = f"{reference['count']:,} images" if reference["count"] else "statistics"
        against = f" against {count} of {Path(reference['name']).name}"
    averaged = "averaged weights" if samples["ema"] else "weights of the last step"
    keys = [
        key for key in ("plan", "num_steps", "guidance_scale", "height", "width") if key in samples
    ]
    how = "".join(f", {key}={show_value(samples[key])}" for key in keys)
    captions = record.get("captions")
    of = f" of captions of {Path(captions['name']).name}" if captions else ""
    drawn = f"{samples['num_images']:,} samples{of} by the {averaged}, seed {samples['seed']}{how}"
    return f"## Scores\n\n{drawn}{against}:\n\n{_table(rows)}"


def _use(config: Mapping[str, Any], folder: Path, repository: str, code: str) -> str:
    """How to draw with it, in a shell and in Python."""
    here = folder.name if folder.is_absolute() else folder.as_posix()
    own = repository.rpartition("/")[2] or here
    typed = shlex.quote(own)
    fetch = [f"hf download {repository} --local-dir {own}"] if repository else []
    if "network" not in config:
        return "\n".join(["## Use", "", "```", *fetch, f"python -m MaskGIL inspect {typed}", "```"])
    place = code or "the code that made these weights"
    call = f"pipe({_subject(config)}generator=0)"
    return "\n".join(
        [
            "## Use",
            "",
            f"In a clone of {place}, after `pip install -e .`:",
            "",
            "```",
            *fetch,
            f"python -m MaskGIL generate weights={typed}",
            f"python -m MaskGIL play weights={typed}",
            "```",
            "",
            "```python",
            "from MaskGIL import Pipeline",
            "",
            f"pipe = Pipeline.from_pretrained({own!r})",
            f"{call}.images[0].save('drawn.png')",
            "```",
        ]
    )


def _subject(config: Mapping[str, Any]) -> str:
    if config["network"]["caption_width"]:
        return "prompt='a red circle', "
    if not config["network"]["num_classes"]:
        return ""
    return f"class_labels={config['classes'][:1] or [0]!r}, "


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["|  |  |", "| --- | --- |", *lines])


def _cell(text: str) -> str:
    """Text that ends no cell and is no markup."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split()))


def _name_of_tokenizer(config: Mapping[str, Any]) -> str:
    tokenizer = config["tokenizer"]
    return f"{tokenizer['name']}, fingerprint {tokenizer['fingerprint'][:16]}"


def _classes(names: list[str], count: int) -> str:
    if not count:
        return "none"
    more = ", ..." if len(names) > CLASSES_SHOWN else ""
    shown = ", ".join(names[:CLASSES_SHOWN]) + more
    return f"{count:,}: {shown}" if names else f"{count:,}"


def _parameters(file: Path) -> str:
    """How many numbers a file of tensors has, by its head alone."""
    with safe_open(file, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    count = sum(map(math.prod, shapes))
    return f"{count / 1e6:,.1f}M parameters" if count >= 1e6 else f"{count:,} parameters"
