"""Tiny generators of other projects: official names and shapes, weights by the filler's rule.

The sha256 are those of the weights that the stored values were made with
(`fixtures/network/NOTES.md`); they hold names and shapes too.
"""

from pathlib import Path

import torch
from fixtures.network import filler
from safetensors.torch import load_file

from Network.config import NetworkConfig

STORED = Path(__file__).parent / "fixtures/network"
WIDTH, INNER, CODES, CLASSES, DEPTH = 64, 256, 32, 10, 2
_LLAMA = {
    "depth": 2, "width": 64, "heads": 4, "codebook_size": 32, "grid": (8, 8),
    "norm": "pre", "qk_norm": False, "embed_norm": False,
}  # fmt: skip
CONFIGS = {
    "llamagen_c2i": NetworkConfig(num_classes=10, rotary="llamagen", **_LLAMA),
    "llamagen_t2i": NetworkConfig(
        num_classes=0, caption_width=48, rotary="llamagen", **{**_LLAMA, "grid": (4, 4)}
    ),
    "published": NetworkConfig(num_classes=10, rotary="published", **_LLAMA),
    "vit": NetworkConfig(
        kind="vit", depth=2, width=64, heads=4, codebook_size=32, num_classes=10, grid=(8, 8),
        mlp_width=128,
    ),
    "halton": NetworkConfig(
        kind="halton", depth=2, width=64, heads=4, codebook_size=32, num_classes=10, grid=(8, 8)
    ),
}  # fmt: skip
SHA256 = {
    ("llamagen_c2i", 0.02): "39368b7a57002126c60ea63ed4fa626ee06689c848e46290338984c969f50e26",
    ("llamagen_c2i", 0.2): "53a2cffb1f37f4cf06887a55efee34923a7fc3fec17e9ec47a34640957766cff",
    ("llamagen_t2i", 0.02): "00efefd436ad8c97df9bdef8c6649145db2f95c059ca35e639662b3514303077",
    ("llamagen_t2i", 0.2): "94f3f163a04a0508c419cde064eccbf0d38766c121b96a6b58a8d36b67f662dc",
    ("published", 0.02): "b2313d521b758b06c42240cd674aa5bb6ced8d405d96952bc0acea28cade2229",
    ("published", 0.2): "5329779b67fd459f1e3505b726fdddb354b463b362a6b1bb857d8175903dc76a",
    ("vit", 0.02): "561a5002ebb7fd1ec86485e2e837de9f62f3dc4dcc026450e75427a55856aad6",
    ("vit", 0.2): "c9a21a8bd95f7b95a891186cad90cc84403d719ce7c7babb8f8882b27176bf6e",
    ("halton", 0.02): "76a09a15c485385b55df23514e80c353a9492627827a27825d291b9ee6a6eacc",
    ("halton", 0.2): "bdffd56c4dc5b3b37360415834867ca9de87e938283ed2a148dec1ee477a3e0e",
}
# Of the float32 arithmetic, as measured with the authors' classes themselves
SCALES = [(0.02, "", 1e-5), (0.2, "_hot", 1e-4)]


def stored(name):
    """Inputs and outputs of the authors' class."""
    return load_file(STORED / f"{name}_tiny.safetensors")


def official_weights(name, scale=0.02):
    """Weights of a tiny generator by its authors' names."""
    shapes = SHAPES[name]()
    weights = filler.transformer_weights(shapes, scale)
    assert filler.digest(weights) == SHA256[name, scale]
    if name == "halton":
        weights["head.weight"] = weights["tok_emb.weight"]  # as its file has both
    return weights


def write_official(file, name, scale=0.02, container="model"):
    """A file as the authors write theirs, with what else is in it."""
    weights = official_weights(name, scale)
    beside = {"optimizer_state_dict": {"state": {}}, "iter": 3, "global_epoch": 1}
    torch.save({container: weights, **beside} if container else weights, file)
    return file


def _llama_blocks():
    shapes = {}
    for block in range(DEPTH):
        shapes |= {
            f"layers.{block}.attention.wqkv.weight": (3 * WIDTH, WIDTH),
            f"layers.{block}.attention.wo.weight": (WIDTH, WIDTH),
            f"layers.{block}.feed_forward.w1.weight": (INNER, WIDTH),
            f"layers.{block}.feed_forward.w2.weight": (WIDTH, INNER),
            f"layers.{block}.feed_forward.w3.weight": (INNER, WIDTH),
            f"layers.{block}.attention_norm.weight": (WIDTH,),
            f"layers.{block}.ffn_norm.weight": (WIDTH,),
        }
    return shapes | {"norm.weight": (WIDTH,)}


def _llamagen_c2i():
    return _llama_blocks() | {
        "cls_embedding.embedding_table.weight": (CLASSES + 1, WIDTH),
        "tok_embeddings.weight": (CODES, WIDTH),
        "output.weight": (CODES, WIDTH),
    }


def _llamagen_t2i():
    return _llama_blocks() | {
        "cls_embedding.uncond_embedding": (120, 48),
        "cls_embedding.cap_proj.fc1.weight": (WIDTH, 48),
        "cls_embedding.cap_proj.fc2.weight": (WIDTH, WIDTH),
        "tok_embeddings.weight": (CODES, WIDTH),
        "output.weight": (CODES, WIDTH),
    }


def _published():
    return _llama_blocks() | {
        "tok_emb.weight": (CODES + 1 + CLASSES + 1, WIDTH),
        "output.weight": (CODES + 1, WIDTH),
    }


def _vit():
    table, places = CODES + 1 + CLASSES + 1, 65
    shapes = {
        "pos_emb": (1, places, WIDTH),
        "bias": (places, table),
        "tok_emb.weight": (table, WIDTH),
    }
    for name, kind in (("first_layer", "0246"), ("last_layer", "024")):
        for index in kind:
            matrix = index in "26"
            shapes[f"{name}.{index}.weight"] = (WIDTH, WIDTH) if matrix else (WIDTH,)
            shapes[f"{name}.{index}.bias"] = (WIDTH,)
    for block in range(DEPTH):
        start = f"transformer.layers.{block}"
        shapes |= {f"{start}.{branch}.norm.{kind}": (WIDTH,)
                   for branch in (0, 1) for kind in ("weight", "bias")}  # fmt: skip
        shapes |= {
            f"{start}.0.fn.mha.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{start}.0.fn.mha.in_proj_bias": (3 * WIDTH,),
            f"{start}.0.fn.mha.out_proj.weight": (WIDTH, WIDTH),
            f"{start}.0.fn.mha.out_proj.bias": (WIDTH,),
            f"{start}.1.fn.net.0.weight": (128, WIDTH),
            f"{start}.1.fn.net.0.bias": (128,),
            f"{start}.1.fn.net.3.weight": (WIDTH, 128),
            f"{start}.1.fn.net.3.bias": (WIDTH,),
        }
    return shapes


def _halton():
    shapes = {
        "cls_emb.weight": (CLASSES + 1, WIDTH),
        "tok_emb.weight": (CODES + 1, WIDTH),
        "pos_emb.weight": (64, WIDTH),
        "reg_tokens.weight": (1, WIDTH),
        "last_norm.norm_final.weight": (WIDTH,),
        "last_norm.norm_final.bias": (WIDTH,),
        "last_norm.mlp.1.weight": (2 * WIDTH, WIDTH),
        "last_norm.mlp.1.bias": (2 * WIDTH,),
        "head.bias": (CODES + 1,),
    }
    for block in range(DEPTH):
        start = f"transformer.layers.{block}"
        shapes |= {f"{start}.attn.w{part}.weight": (WIDTH, WIDTH) for part in "qkvo"}
        shapes |= {
            f"{start}.mlp.1.weight": (6 * WIDTH, WIDTH),
            f"{start}.mlp.1.bias": (6 * WIDTH,),
            f"{start}.ln1.weight": (WIDTH,),
            f"{start}.ln2.weight": (WIDTH,),
            f"{start}.ff.w1.weight": (INNER, WIDTH),
            f"{start}.ff.w2.weight": (WIDTH, INNER),
            f"{start}.ff.w3.weight": (INNER, WIDTH),
        }
    return shapes


SHAPES = {
    "llamagen_c2i": _llamagen_c2i,
    "llamagen_t2i": _llamagen_t2i,
    "published": _published,
    "vit": _vit,
    "halton": _halton,
}
