"""Tokens for a generator: the cache of a run, written first if it is missing.

A cache that was converted from the tokens of others is read as it is.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from MaskGIL.cache import TokenCache, cache_size, finish_cache, write_cache
from MaskGIL.cache_index import check_same, check_tokenizer, is_converted, read_index, token_grid
from MaskGIL.cached_rows import CachedRows, hold_out, open_rows
from MaskGIL.data import Images, Split, open_images
from MaskGIL.data.bucket_shapes import read_shapes
from MaskGIL.data.buckets import Bucket, fill_buckets
from MaskGIL.data.choice import hold_out_choice
from MaskGIL.data.crops import num_crops, show_size
from MaskGIL.device import choose_device
from MaskGIL.distributed import all_gather_texts, barrier, is_main, rank, world_size
from MaskGIL.imagenet import describe_count
from MaskGIL.json_index import is_complete
from MaskGIL.values import amount
from Network.config import UserError
from Network.tokenizer.vq import VQTokenizer
from Trainer.batches import bad_files, size_of
from Trainer.config import RunConfig
from Trainer.lock import only_job
from Trainer.logger import format_bytes

VALIDATION_IMAGES = 2048
SPLITS: tuple[Split, ...] = ("train", "val")


def open_split(config: RunConfig, split: Split) -> Images:
    """The images of a split, or rows of a cache where pictures are not needed.

    They are not for training on a converted cache, and for nothing with data.source=tokens. There,
    without a cache of validation tokens, VALIDATION_IMAGES rows of the training cache, at most an
    eighth of them, are held out. With data.choice both are parts of the training images. Raises
    UserError as `open_images` and `open_rows` do.
    """
    data, folder = config.data, cache_folder(config, split)
    if data.choice:
        _check_choice(config)
        return hold_out_choice(open_images(data, "train"), split)
    if config.job != "tokenizer" and data.tokens == "cache":
        if data.source == "tokens":
            return _open_tokens(config, split)
        if split == "train" and is_converted(folder):
            return open_rows(folder)
    return open_images(data, split)


def shaped(config: RunConfig, images: Images, split: Split) -> list[Images]:
    """The images of a split by shape: all of them at once, or the buckets of data.buckets.

    All ranks must come here. Raises UserError as `fill_buckets` does.
    """
    if not (shapes := read_shapes(config.data.buckets)):
        return [images]
    memory = cache_folder(config, split) / "buckets.json"
    return [*fill_buckets(images, shapes, memory, split)]


def cache_folder(config: RunConfig, split: Split, images: Images | None = None) -> Path:
    """Where the caches of a split lie, or that of some of its images, if they are a bucket."""
    folder = cache_root(config) / split
    return folder / show_size(images.shape) if isinstance(images, Bucket) else folder


def cache_root(config: RunConfig) -> Path:
    """The folder that all caches of a run lie in."""
    return Path(config.data.cache or Path(config.out_dir) / "cache")


def describe_cache(config: RunConfig, images: Images, tokenizer: VQTokenizer, split: Split) -> str:
    """What goes into the cache of a split, how many bytes that is, and where they lie.

    Raises UserError for a size of images without grid.
    """
    if given := _given(config, images, split):
        return f"{describe_count(images, split)}, read from {given} as they are"
    crops = num_crops(_crops(config, split))
    grid = token_grid(size_of(config, images), tokenizer.stride)
    size = cache_size(len(images), crops, grid, tokenizer.codebook_size)
    return (
        f"{describe_count(images, split)} x {amount(crops, 'crop')} -> {grid[0]}x{grid[1]} tokens, "
        f"{format_bytes(size)} in {cache_folder(config, split, images)}"
    )


def describe_validation(images: Images, trained_on: Images) -> str:
    """How many images validate, and whether they are rows that training leaves out."""
    folders = {each.folder for each in (images, trained_on) if isinstance(each, CachedRows)}
    if isinstance(images, CachedRows) and len(folders) == 1:
        return f"{len(images):,} more, held out,"
    return describe_count(images, "val")


def has_tokens(config: RunConfig) -> bool:
    """Whether no image is to be encoded: the token caches of both splits are complete."""
    if config.data.source == "tokens":
        return True
    for split in SPLITS:
        folders = [cache_folder(config, split) / part for part in config.data.buckets or ("",)]
        if split == "val":  # where a bucket may have no pictures
            folders = [folder for folder in folders if folder.exists()]
        if not folders or not all(is_complete(folder, read_index) for folder in folders):
            return False
    return True


def cached_tokens(
    config: RunConfig, images: Images, tokenizer: VQTokenizer, split: Split
) -> TokenCache:
    """Open the cache of a split, verified; write it first if it is missing or unfinished.

    Labels of rows that are not among `images` are -1. Raises UserError if the cache belongs to
    another tokenizer, to other classes or to images of another size, if it is damaged, or if
    another job writes there.
    """
    folder, given = cache_folder(config, split, images), _given(config, images, split)
    verify = is_main()
    if given is None:
        with _alone(config, folder):
            _write(config, images, tokenizer, split)
    else:
        _check_given(config, given, tokenizer)
        verify = verify and given == folder  # rows held out are verified with the others
        folder = given
    cache = TokenCache.open(folder, tokenizer=tokenizer, classes=images.classes, verify=verify)
    if isinstance(images, CachedRows):
        cache.labels[np.setdiff1d(np.arange(len(cache)), images.rows)] = -1
    return cache


def _check_choice(config: RunConfig) -> None:
    data, idle = config.data, ""
    if data.source == "tokens" or is_converted(cache_folder(config, "train")):
        idle = "a token cache without pictures"
    if data.buckets or config.network.caption_width:
        idle = "data.buckets or captions"
    if idle:
        raise UserError(f"data.choice does not go with {idle}; leave data.choice out.")


def _open_tokens(config: RunConfig, split: Split) -> CachedRows:
    if config.data.buckets:
        raise UserError(
            f"data.buckets={','.join(config.data.buckets)} are cut from pictures, and "
            "data.source=tokens has none; name their source, whose caches are read where they are."
        )
    if split == "val" and config.loop.score_every:
        raise UserError(
            f"loop.score_every={config.loop.score_every} compares with validation images, and "
            "data.source=tokens has none; use loop.score_every=0."
        )
    if (cache_folder(config, "val") / "index.json").exists():
        return open_rows(cache_folder(config, split))
    train, val = hold_out(open_rows(cache_folder(config, "train")), VALIDATION_IMAGES)
    return train if split == "train" else val


def _given(config: RunConfig, images: Images, split: Split) -> Path | None:
    """The cache that is read as it is, for nobody here could write it, if the split has one."""
    if isinstance(images, CachedRows):
        return images.folder
    folder = cache_folder(config, split, images)
    return folder if is_converted(folder) else None


def _check_given(config: RunConfig, folder: Path, tokenizer: VQTokenizer) -> None:
    index, size = read_index(folder), config.data.image_size
    check_tokenizer(folder, index, tokenizer.fingerprint)
    found = {"image_size": index["transform"]["image_size"], "grid": index["parts"][0]["grid"]}
    wanted = {"image_size": size, "grid": list(token_grid(size, tokenizer.stride))}
    check_same(folder, "size", found, wanted)


def _alone(config: RunConfig, folder: Path) -> AbstractContextManager[None]:
    """Keep other jobs away from a cache that is to be written; a complete one is for many."""
    unfinished = any(all_gather_texts("" if is_complete(folder, read_index) else "unfinished"))
    return only_job(cache_root(config), "data.cache") if unfinished else nullcontext()


def _write(config: RunConfig, images: Images, tokenizer: VQTokenizer, split: Split) -> None:
    """Write a cache unless it is complete. Validation images have one centre crop.

    A line tells how many files could not be read.
    """
    folder, data = cache_folder(config, split, images), config.data
    if is_main() and not (folder / "index.json").exists():
        print(f"cache      {describe_cache(config, images, tokenizer, split)}", flush=True)
    bad = bad_files(config, images)
    device = choose_device(config.device)
    with tqdm(
        total=len(images), unit="img", leave=False, disable=None if is_main() else True
    ) as bar:
        write_cache(
            folder,
            images,
            tokenizer.to(device),
            crops=_crops(config, split),
            image_size=size_of(config, images),
            bad=bad,
            device=device,
            precision=data.cache_precision,
            workers=data.workers,
            rank=rank(),
            world_size=world_size(),
            progress=bar.update,
        )
    barrier()
    if is_main():
        finish_cache(folder, images, bad)
        if bad.found:  # and so the cache was written just now
            print(f"unreadable {len(bad.found)} of {len(images)} images, listed in {bad.path}")
    barrier()


def _crops(config: RunConfig, split: Split) -> str:
    return config.data.crops if split == "train" else "center"
