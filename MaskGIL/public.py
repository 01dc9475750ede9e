"""Weights that others released, by name: where they lie, under which licence, and fetched once.

We have never been able to fetch any of them: places, licences and samplers are as their authors
give them, a hash is the one that a public page tells. The fingerprint of a tokenizer, kept in every
cache and weights folder, tells one file from another.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from MaskGIL.distributed import is_main
from MaskGIL.download import fetch
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.values import did_you_mean
from Network.config import UserError


class PublicFile(NamedTuple):
    """One file: of a repository on the Hugging Face hub, or at a plain `url`."""

    repository: str  # owner/name on the hub; where there is a url, the authors' code
    file: str
    licence: str
    url: str = ""
    revision: str = "main"  # a branch may move: a commit where one is known to us
    sha256: str = ""  # where it is known to us; the hub says it while it is fetched
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


def _llamagen(file: str, sha256: str = "") -> PublicFile:
    revision = "dc1fec543f6ac82e0cb9bbed058d5eaa26a30e6e" if sha256 else "main"
    return PublicFile("FoundationVision/LlamaGen", file, "MIT", revision=revision, sha256=sha256)


def _llamagen_t2i(file: str) -> PublicFile:
    return PublicFile("peizesun/llamagen_t2i", file, "MIT")


# Files of tokenizers. The last one has no architecture of its own: it is that of llamagen-vq16
PUBLIC = {
    "llamagen-vq16": _llamagen("vq_ds16_c2i.pt"),
    "llamagen-vq8": _llamagen(
        "vq_ds8_c2i.pt", "c70d2966ec012f378793214ff0755087e7c5fe6f035b469995143325dca4a4e3"
    ),
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
    "llamagen-vq16-t2i": _llamagen_t2i("vq_ds16_t2i.pt"),
}


class PublicGenerator(NamedTuple):
    """A generator: its file, whose tokens it makes, and how its authors sample it."""

    file: PublicFile
    grid: tuple[int, int]  # which LlamaGen's files do not tell
    sampling: SamplingConfig
    objective: str = "ar"
    tokenizer: str = "llamagen-vq16"  # the name of its architecture
    tokenizer_file: str = "llamagen-vq16"  # a key of PUBLIC
    text: TextOrigin | None = None  # of one that takes prompts
    parameters: int = 0  # in millions, as the authors round them


def _c2i(file: str, side: int, scale: float, parameters: int, sha256: str = "") -> PublicGenerator:
    """Scales as in the commands for LlamaGen's table of FIDs (GETTING_STARTED.md)."""
    sampling = SamplingConfig(guidance="constant", guidance_scale=scale)
    public = _llamagen(file, sha256)
    return PublicGenerator(public, (side, side), sampling, parameters=parameters)


def _t2i(file: str, side: int) -> PublicGenerator:
    """Scale, top-k and the precision of the text encoder are the defaults of sample_t2i.py.

    Its T5Embedder cleans prompts: of that the lower case is kept, which changes every one; it also
    takes out addresses, file names and the like. The fingerprint of flan-t5-xl nobody has told us.
    """
    sampling = SamplingConfig(guidance="constant", guidance_scale=7.5, top_k=1000)
    return PublicGenerator(
        _llamagen_t2i(file),
        (side, side),
        sampling,
        tokenizer_file="llamagen-vq16-t2i",
        text=TextOrigin("flan-t5-xl", "bf16", fingerprint="", lower_case=True),
        parameters=778,
    )


def _halton(file: str, side: int, parameters: int, sha256: str = "") -> PublicGenerator:
    """Order, steps, scale (1 + w) and temperature of its README.

    There logits are multiplied by a number that rises from 1 to 1.2, so that temperatures fall
    from 1 to 1 / 1.2; here they do so along a line.
    """
    public = PublicFile("llvictorll/Halton-MaskGIT", file, "MIT", sha256=sha256)
    sampling = SamplingConfig(
        num_steps=32,
        order="halton",
        guidance="constant",
        guidance_scale=3.0,
        last_temperature=0.83,
    )
    return PublicGenerator(public, (side, side), sampling, "mar", parameters=parameters)


GENERATORS = {
    "llamagen-b": _c2i("c2i_B_256.pt", 16, 2.0, 111),
    "llamagen-b-384": _c2i("c2i_B_384.pt", 24, 2.0, 111),
    "llamagen-l": _c2i("c2i_L_256.pt", 16, 2.0, 343),
    "llamagen-l-384": _c2i("c2i_L_384.pt", 24, 2.0, 343),
    "llamagen-xl-384": _c2i(
        "c2i_XL_384.pt",
        24,
        1.75,
        775,
        "736cb92bebdcb16737dbd35210a07ae4f7fd001cdfd55b26205d89182d1807ba",
    ),
    "llamagen-xxl-384": _c2i(
        "c2i_XXL_384.pt",
        24,
        1.75,
        1400,
        "cba5a780b9d2394386e7410c630bced3a70e109cf7107e1783c9a986e9e7754e",
    ),
    "llamagen-3b-384": _c2i("c2i_3B_384.pt", 24, 1.65, 3100),
    "llamagen-t2i-xl-256": _t2i("t2i_XL_stage1_256.pt", 16),
    "llamagen-t2i-xl-512": _t2i("t2i_XL_stage2_512.pt", 32),
    "halton-base": _halton(
        "ImageNet_256_base.pth",
        16,
        142,
        "7fe25cb80b05743e8b42dacc61d88792a9ab5217d6bd756bef28821e0a5fc68f",
    ),
    "halton-large-384": _halton("ImageNet_384_large.pth", 24, 480),
}


def public_file(name: str) -> Path:
    """The file of a name of `PUBLIC` or `GENERATORS`, fetched first if it is not there.

    It lies where PyTorch keeps downloads; TORCH_HOME moves that. Raises UserError for an unknown
    name, for what cannot be had, and with HF_HUB_OFFLINE if it is not there.
    """
    from huggingface_hub import constants, get_token, hf_hub_url

    public = _row(name)
    path = _folder() / name / Path(public.file).name
    if path.is_file():
        return path
    url = public.url or hf_hub_url(public.repository, public.file, revision=public.revision)
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"HF_HUB_OFFLINE is set, and {path} is not there; fetch {url} elsewhere and put it "
            f"there{'' if name in GENERATORS else ', or name it, tokenizer.weights=FILE'}."
        )
    if is_main():
        print(f"fetching   {describe(name)}, to {path}", flush=True)
    token = None if public.url else get_token()
    return fetch(url, path, sha256=public.sha256, size=public.size, token=token)


def describe(name: str) -> str:
    """What a row of `PUBLIC` or `GENERATORS` is, for a line of text."""
    public = _row(name)
    size = f"{public.size / 1e6:,.1f} MB" if public.size else "size unknown"
    source = f"{public.repository} {public.file}" + (f" ({public.note})" if public.note else "")
    return f"{name}: {source}, {size}, licence {public.licence}"


def bytes_of(name: str) -> int:
    """What a row of `GENERATORS` takes in fp32 beside its tokenizer of 72M numbers, about."""
    return 4 * 10**6 * (GENERATORS[name].parameters + 72)


def licence_of(name: str) -> str:
    """The licence of a row of `PUBLIC` or `GENERATORS` as the hub calls it; empty where none is."""
    return _row(name).licence.lower() if name in (*PUBLIC, *GENERATORS) else ""


def _row(name: str) -> PublicFile:
    if name in GENERATORS:
        return GENERATORS[name].file
    if name not in PUBLIC:
        known = [*PUBLIC, *GENERATORS]
        hint = did_you_mean(name, known)
        raise UserError(f"Unknown public weights {name!r}.{hint} Known: {', '.join(known)}.")
    return PUBLIC[name]


def _folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / "MaskGIL"
