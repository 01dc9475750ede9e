"""Tokens for a generator: the cache of a run, written first if it is missing."""

from pathlib import Path

from tqdm import tqdm

from MaskGIL.cache import TokenCache, cache_size, finish_cache, write_cache
from MaskGIL.cache_index import read_index, token_grid
from MaskGIL.data import Images, Split, open_images
from MaskGIL.data.crops import num_crops
from MaskGIL.device import choose_device
from MaskGIL.distributed import barrier, is_main, rank, world_size
from MaskGIL.imagenet import describe_count
from MaskGIL.weights import open_tokenizer
from Network.tokenizer.vq import VQTokenizer
from Trainer.batches import bad_files
from Trainer.config import RunConfig
from Trainer.logger import format_bytes

SPLITS: tuple[Split, ...] = ("train", "val")


def write_caches(config: RunConfig) -> None:
    """The job `cache`: write both splits and nothing else."""
    tokenizer = open_tokenizer(config.tokenizer)
    for split in SPLITS:
        cached_tokens(config, open_images(config.data, split), tokenizer, split)


def cache_folder(config: RunConfig, split: Split) -> Path:
    """Where the cache of a split lies."""
    return Path(config.data.cache or Path(config.out_dir) / "cache") / split


def describe_cache(config: RunConfig, images: Images, tokenizer: VQTokenizer, split: Split) -> str:
    """What goes into the cache of a split, how many bytes that is, and where they lie.

    Raises UserError for a size of images without grid.
    """
    crops = num_crops(_crops(config, split))
    grid = token_grid(config.data.image_size, tokenizer.stride)
    size = cache_size(len(images), crops, grid, tokenizer.codebook_size)
    return (
        f"{describe_count(images, split)} x {crops} crops -> {grid[0]}x{grid[1]} tokens, "
        f"{format_bytes(size)} in {cache_folder(config, split)}"
    )


def has_cache(config: RunConfig) -> bool:
    """Whether the caches of both splits are complete."""
    folders = [cache_folder(config, split) for split in SPLITS]
    return all((f / "index.json").exists() and read_index(f)["complete"] for f in folders)


def cached_tokens(
    config: RunConfig, images: Images, tokenizer: VQTokenizer, split: Split
) -> TokenCache:
    """Open the cache of a split, verified; write it first if it is missing or unfinished.

    Validation images have one centre crop. A line tells how many files could not be read. Raises
    UserError if the cache belongs to another tokenizer, to other classes or is damaged.
    """
    folder, data = cache_folder(config, split), config.data
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
            image_size=data.image_size,
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
    return TokenCache.open(folder, tokenizer=tokenizer, classes=images.classes, verify=is_main())


def _crops(config: RunConfig, split: Split) -> str:
    return config.data.crops if split == "train" else "center"
