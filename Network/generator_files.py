"""Generators of other projects: whose file it is, its configuration, and its weights by our names.

A layout is told by the names of its tensors, a size by their shapes; one table translates each.
Sources: LlamaGen (ce98ec4), synbol/MaskGIL (4edf674), valeoai/Halton-MaskGIT (f61b0a1).
The reading itself, which executes nothing, is in `Network/files.py`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from Network.config import NetworkConfig, UserError
from Network.files import read_contents, unwrapped
from Network.sizes import SIZES_OF

State = Mapping[str, Tensor]
# The first that a file has is read, else it is flat: DDP, DeepSpeed, MaskGIL's and others' trainers
CONTAINERS = ("model", "module", "model_state_dict", "state_dict")
UNUSED = ("freqs_cis", "head.weight")  # rotary tables of old files; Halton's head is its embedding
OURS = "token_embedding."  # how a name begins that is ours
NUM_CLASSES = 1000  # of a table that holds codes and classes and does not say how many of each
UNSHAPED = ("kind", "rotary", "heads")  # of NetworkConfig: what changes no shape, or all names
BLOCK = re.compile(r"(?:transformer\.)?layers\.(\d+)\.")


class Generator(NamedTuple):
    """A generator as it was read: `state` goes into the network of `config`."""

    config: NetworkConfig
    state: dict[str, Tensor]
    objective: str  # what it was trained for: mar or ar


class Layout(NamedTuple):
    """How a project names its tensors.

    `settings` makes the keys of `NetworkConfig` from a state of official names; `convert` does what
    exchanging parts of names cannot, on a state whose parts are exchanged.
    """

    project: str
    marks: tuple[str, ...]  # names that no other layout has all of
    parts: tuple[tuple[str, str], ...]  # theirs, ours; exchanged in this order
    settings: Callable[[State], dict[str, Any]]
    convert: Callable[[dict[str, Tensor], NetworkConfig], dict[str, Tensor]]
    objective: str = "mar"


def read_generator(path: str | Path, config: NetworkConfig | None = None) -> Generator:
    """Read a public generator, or a bare file of ours, by our names, onto the CPU.

    `config` is needed for our own files and for sizes that nobody published; else it is told by
    the shapes, with a square grid. Whether every tensor fits is for `load_strict` to see. Raises
    UserError as `read_contents`, for a file that holds no generator, and if `config` is missing or
    of another architecture.
    """
    state = _container(read_contents(path))
    if _is_ours(state):
        if config is None:
            raise UserError(f"{path} is a bare file; give its folder, with config.json beside it.")
        return Generator(config, state, "mar")
    layout = LAYOUTS[tell_layout(state, path)]
    try:
        found = _told_config(layout, state, path, config)
        return Generator(found, our_state(layout, state, found), layout.objective)
    except KeyError as missing:
        raise UserError(
            f"{path} looks like a generator of {layout.project}, but lacks {missing.args[0]}; "
            "download it again."
        ) from None
    except UserError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{path} looks like a generator of {layout.project}, but its tensors have other shapes "
            f"({error}); download it again."
        ) from None


def holds_generator(path: str | Path) -> bool:
    """Whether a file holds a generator of a layout that is known. Raises as `read_contents`."""
    state = _container(read_contents(path))
    return _is_ours(state) or any(_is_layout(layout, state) for layout in LAYOUTS.values())


def tell_layout(state: State, path: object) -> str:
    """The key of `LAYOUTS` for tensors of these names. Raises UserError if there is none."""
    for name, layout in LAYOUTS.items():
        if _is_layout(layout, state):
            return name
    if any(name.startswith(("encoder.", "decoder.")) for name in state):
        raise UserError(f"{path} holds a tokenizer, no generator; give weights=RUN/weights.")
    known = dict.fromkeys(layout.project for layout in LAYOUTS.values())
    raise UserError(f"{path} holds no generator that is known: {', '.join(known)} are.")


def our_state(layout: Layout, state: State, config: NetworkConfig) -> dict[str, Tensor]:
    """Weights by official names -> by ours. Raises KeyError for a part that is missing."""
    named = {our_name(layout, name): tensor for name, tensor in state.items()}
    return layout.convert(named, config)


def our_name(layout: Layout, name: str) -> str:
    """Our name of an official tensor, before `convert` joins or cuts it."""
    for theirs, ours in layout.parts:
        name = name.replace(theirs, ours)
    return name


def check_alike(source: object, facts: Mapping[str, Any], config: NetworkConfig) -> None:
    """Raise UserError unless `config` has these values of keys that no shape tells."""
    for key, value in facts.items():
        if (asked := getattr(config, key)) != value:
            raise UserError(
                f"{source} has network.{key}={value}, but network.{key}={asked} is asked for; use "
                f"network.{key}={value}."
            )


def _container(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    inside = (contents[name] for name in CONTAINERS if isinstance(contents.get(name), Mapping))
    found = next(inside, contents)
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    state = {unwrapped(str(name)): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in state.items() if name not in UNUSED}


def _is_ours(state: State) -> bool:
    return any(name.startswith(OURS) for name in state)


def _is_layout(layout: Layout, state: State) -> bool:
    return all(mark in state for mark in layout.marks)


def _told_config(
    layout: Layout, state: State, path: object, config: NetworkConfig | None
) -> NetworkConfig:
    """The configuration that the shapes tell, or `config` if it is of this architecture."""
    settings = layout.settings(state)
    depth = len({found[1] for name in state if (found := BLOCK.match(name))})
    sizes = SIZES_OF[settings.get("kind", "gpt")].items()
    named = (name for name, s in sizes if (s.depth, s.width) == (depth, settings["width"]))
    name = next(named, None)
    told = NetworkConfig(size=name, **settings) if name else None
    if told and told.kind == "gpt":  # rows of q, then of k, then of v; as many heads: 0
        rows = len(state["layers.0.attention.wqkv.weight"]) - told.width
        told = replace(told, kv_heads=rows * told.heads // told.width // 2 % told.heads)
    if config is not None:
        facts = {key: settings[key] for key in ("kind", "rotary") if key in settings}
        if told and told.kind != "vit":  # of which there are 768x24 with 8 heads and with 16
            facts["heads"] = told.heads
        check_alike(path, facts, config)
        return config
    if told:
        return told
    raise UserError(
        f"{path} has {depth} blocks of width {settings['width']}, which no published size of "
        f"{layout.project} has; its heads cannot be told: load it with a NetworkConfig."
    )


# ------------------------------------------------------------------------------------- settings
_LLAMA = {"norm": "pre", "qk_norm": False, "embed_norm": False}


def _llamagen_classes(state: State) -> dict[str, Any]:
    codes, width = state["tok_embeddings.weight"].shape
    classes = len(state["cls_embedding.embedding_table.weight"]) - 1
    return _LLAMA | {
        "rotary": "llamagen", "width": width, "codebook_size": codes, "num_classes": classes,
    }  # fmt: skip


def _llamagen_captions(state: State) -> dict[str, Any]:
    codes, width = state["tok_embeddings.weight"].shape
    caption_width = state["cls_embedding.cap_proj.fc1.weight"].shape[1]
    return _LLAMA | {
        "rotary": "llamagen", "width": width, "codebook_size": codes, "num_classes": 0,
        "caption_width": caption_width,
    }  # fmt: skip


def _published(state: State) -> dict[str, Any]:
    rows, width = state["tok_emb.weight"].shape
    codes = len(state["output.weight"]) - 1
    return _LLAMA | {
        "rotary": "published", "width": width, "codebook_size": codes,
        "num_classes": rows - codes - 2,
    }  # fmt: skip


def _vit(state: State) -> dict[str, Any]:
    rows, width = state["tok_emb.weight"].shape
    return {
        "kind": "vit", "width": width, "codebook_size": rows - NUM_CLASSES - 2,
        "num_classes": NUM_CLASSES, "grid": _square(state["pos_emb"].shape[1] - 1),
        "mlp_width": len(state["transformer.layers.0.1.fn.net.0.weight"]),
    }  # fmt: skip


def _halton(state: State) -> dict[str, Any]:
    rows, width = state["tok_emb.weight"].shape
    return {
        "kind": "halton", "width": width, "codebook_size": rows - 1,
        "num_classes": len(state["cls_emb.weight"]) - 1,
        "grid": _square(len(state["pos_emb.weight"])),
    }  # fmt: skip


def _square(num_tokens: int) -> tuple[int, int]:
    side = math.isqrt(num_tokens)
    return side, side


# -------------------------------------------------------------------------------------- convert
def _add_mask_row(state: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """LlamaGen knows no mask token: its row becomes the mean, a beginning for masked training."""
    table = state["token_embedding.weight"]
    return state | {"token_embedding.weight": torch.cat([table, table.mean(0, keepdim=True)])}


def _split_table(state: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """One table of codes, mask token, classes and null class becomes two."""
    table = state["token_embedding.weight"]
    codes = config.codebook_size
    return state | {
        "token_embedding.weight": table[: codes + 1],
        "condition.table.weight": table[codes + 1 :],
    }


def _from_published(state: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """The last row of its head would predict the mask token."""
    return _split_table(state, config) | {"output.weight": state["output.weight"][:-1]}


def _from_vit(state: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Its bias has rows of the class token's place, and columns of what is no code."""
    return _split_table(state, config) | {
        "position_embedding.weight": state["position_embedding.weight"][0],
        "bias": state["bias"][:-1, : config.codebook_size],
    }


def _from_halton(state: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Queries, keys and values are apart; the last bias belongs to the mask token."""
    joined = {name: tensor for name, tensor in state.items() if ".attn." not in name}
    for block in range(config.depth):
        parts = [state[f"blocks.{block}.attn.w{part}.weight"] for part in "qkv"]
        joined[f"blocks.{block}.attention.qkv.weight"] = torch.cat(parts)
    return joined | {"bias": state["bias"][:-1]}


_LLAMA_PARTS = (
    ("layers.", "blocks."),
    (".wqkv.", ".qkv."),
    (".wo.", ".out."),
    (".w1.", ".gate."),
    (".w2.", ".down."),
    (".w3.", ".up."),
    (".attention_norm.", ".attention_norm_in."),
    (".ffn_norm.", ".feed_forward_norm_in."),
)
_LLAMAGEN_PARTS = (
    *_LLAMA_PARTS,
    ("tok_embeddings.", "token_embedding."),
    ("cls_embedding.embedding_table.", "condition.table."),
    ("cls_embedding.cap_proj.fc1.", "condition.up."),
    ("cls_embedding.cap_proj.fc2.", "condition.down."),
    ("cls_embedding.uncond_embedding", "condition.null_features"),
)
LAYOUTS = {
    "llamagen-c2i": Layout(
        "LlamaGen",
        ("tok_embeddings.weight", "cls_embedding.embedding_table.weight"),
        _LLAMAGEN_PARTS,
        _llamagen_classes,
        _add_mask_row,
        "ar",
    ),
    "llamagen-t2i": Layout(
        "LlamaGen",
        ("tok_embeddings.weight", "cls_embedding.cap_proj.fc1.weight"),
        _LLAMAGEN_PARTS,
        _llamagen_captions,
        _add_mask_row,
        "ar",
    ),
    "maskgil": Layout(
        "MaskGIL as published",
        ("tok_emb.weight", "layers.0.attention.wqkv.weight"),
        (*_LLAMA_PARTS, ("tok_emb.", "token_embedding.")),
        _published,
        _from_published,
    ),
    "vit": Layout(
        "MaskGIT's MaskTransformer",
        ("tok_emb.weight", "first_layer.0.weight"),
        (
            ("transformer.layers.", "blocks."),
            (".0.norm.", ".attention_norm."),
            (".1.norm.", ".feed_forward_norm."),
            (".0.fn.mha.in_proj_", ".qkv."),
            (".0.fn.mha.out_proj.", ".out."),
            (".1.fn.net.", ".feed_forward."),
            ("first_layer.", "first."),
            ("last_layer.", "last."),
            ("tok_emb.", "token_embedding."),
            ("pos_emb", "position_embedding.weight"),
        ),
        _vit,
        _from_vit,
    ),
    "halton": Layout(
        "Halton-MaskGIT",
        ("tok_emb.weight", "last_norm.norm_final.weight"),
        (
            ("transformer.layers.", "blocks."),
            (".mlp.1.", ".modulation."),
            ("last_norm.modulation.", "modulation."),
            ("last_norm.norm_final.weight", "norm.weight"),
            ("last_norm.norm_final.bias", "norm_bias"),
            (".ln1.", ".attention_norm."),
            (".attn.wo.", ".attention.out."),
            (".ln2.", ".feed_forward_norm."),
            (".ff.w1.", ".feed_forward.gate."),
            (".ff.w2.", ".feed_forward.down."),
            (".ff.w3.", ".feed_forward.up."),
            ("cls_emb.", "condition.table."),
            ("tok_emb.", "token_embedding."),
            ("pos_emb.", "position_embedding."),
            ("reg_tokens.", "register."),
            ("head.bias", "bias"),
        ),
        _halton,
        _from_halton,
    ),
}
