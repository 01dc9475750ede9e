"""Weights that others released, by name: where they lie, under which licence, and fetched once.

We have never been able to fetch any of them: places and licences are as their authors give them,
sizes and hashes are not known to us. The fingerprint of a tokenizer, kept in every cache and
weights folder, tells one file from another.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.distributed import is_main
from MaskGIL.download import fetch
from MaskGIL.values import did_you_mean
from Network.config import UserError


class PublicFile(NamedTuple):
    """One file: of a repository on the Hugging Face hub, or at a plain `url`."""

    repository: str  # owner/name on the hub; where there is a url, the authors' code
    file: str
    licence: str
    url: str = ""
    revision: str = "main"  # a branch may move: no commit is known to us
    sha256: str = ""  # not known to us; the hub says it while it is fetched
    size: int = 0  # bytes; not known to us
    note: str = ""


def _taming(folder: str) -> PublicFile:
    return PublicFile(
        "CompVis/taming-transformers",
        "last.ckpt",
        "MIT",
        f"https://heibox.uni-heidelberg.de/d/{folder}/files/?p=%2Fckpts%2Flast.ckpt&dl=1",
        note="on a server of the authors' university, which may not go on where it broke off",
    )


def _magvit2(side: int) -> PublicFile:
    repository = f"TencentARC/Open-MAGVIT2-Tokenizer-{side}-resolution"
    return PublicFile(repository, f"imagenet_{side}_L.ckpt", "Apache-2.0")


PUBLIC = {
    "llamagen-vq16": PublicFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", "MIT"),
    "llamagen-vq8": PublicFile("FoundationVision/LlamaGen", "vq_ds8_c2i.pt", "MIT"),
    "taming-f16-1024": _taming("8088892a516d4e3baf92"),
    "taming-f16-16384": _taming("a7530b09fed84f80a887"),
    "maskgit-vq": PublicFile(
        "fun-research/TiTok",
        "maskgit-vqgan-imagenet-f16-256.bin",
        "Apache-2.0",
        note="the port to PyTorch of open-muse and 1d-tokenizer",
    ),
    "chameleon-vq": PublicFile(
        "GAIR/Anole-7b-v0.1",
        "tokenizer/vqgan.ckpt",
        "Chameleon Research License, non-commercial",
        note="a copy: Meta's own lies behind a form",
    ),
    "magvit2-f16": _magvit2(256),
    "magvit2-f8": _magvit2(128),
}


def public_file(name: str) -> Path:
    """The file of a name of `PUBLIC`, fetched first if it is not there, as it then says.

    It lies where PyTorch keeps downloads; TORCH_HOME moves that. Raises UserError for an unknown
    name, for what cannot be had, and with HF_HUB_OFFLINE if it is not there.
    """
    from huggingface_hub import constants, get_token, hf_hub_url

    if name not in PUBLIC:
        hint = did_you_mean(name, PUBLIC)
        raise UserError(f"Unknown public weights {name!r}.{hint} Known: {', '.join(PUBLIC)}.")
    public = PUBLIC[name]
    path = _folder() / name / Path(public.file).name
    if path.is_file():
        return path
    url = public.url or hf_hub_url(public.repository, public.file, revision=public.revision)
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"HF_HUB_OFFLINE is set, and {path} is not there; fetch {url} elsewhere and put it "
            "there, or name it, tokenizer.weights=FILE."
        )
    if is_main():
        print(f"fetching   {describe(name)}, to {path}", flush=True)
    token = None if public.url else get_token()
    return fetch(url, path, sha256=public.sha256, size=public.size, token=token)


def describe(name: str) -> str:
    """What a row of `PUBLIC` is, for a line of text."""
    public = PUBLIC[name]
    size = f"{public.size / 1e6:,.1f} MB" if public.size else "size unknown"
    source = f"{public.repository} {public.file}" + (f" ({public.note})" if public.note else "")
    return f"{name}: {source}, {size}, licence {public.licence}"


def _folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / "MaskGIL"
