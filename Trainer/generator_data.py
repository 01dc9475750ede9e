"""What a generator learns from: tokens or images by shape, captions, and how many tokens to hide.

Shapes: n images of one shape, h x w tokens.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from MaskGIL.cache import TokenCache, encode_crops
from MaskGIL.caption_cache import CaptionCache
from MaskGIL.caption_index import captions_hash
from MaskGIL.data import Images, Split
from MaskGIL.data.bucket_shapes import read_shapes
from MaskGIL.data.buckets import Bucket, BucketOrder
from MaskGIL.data.crops import num_crops
from MaskGIL.data.sampler import Sampler, spread
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import open_tokenizer
from Network.tokenizer.vq import VQTokenizer
from Trainer.agreement import check_bucket
from Trainer.batches import (
    Batch,
    BucketBatches,
    CaptionBatches,
    ImageBatches,
    MaskedBatches,
    TokenBatches,
    bad_files,
    center_crops,
    size_of,
)
from Trainer.caption_source import BlankCaptions, CaptionSource, FirstCaptions, has_captions
from Trainer.config import RunConfig
from Trainer.content import Content
from Trainer.tokens import (
    SPLITS,
    VALIDATION_IMAGES,
    cached_tokens,
    has_tokens,
    open_split,
    shaped,
)
from Trainer.validation import Group

MEASURED_CAPTIONS = 1024  # from which the statistics of features are taken


class GeneratorData:
    """The images of both splits as a run sees them; the tokenizer stands on its device.

    `order` says whose turn it is among the shapes of a batch. Making one reads no pixel; the caches
    are written when they are first asked for. Raises UserError as `check_bucket`, `shaped` and
    `CaptionSource` do.
    """

    def __init__(
        self, config: RunConfig, images: dict[Split, Images], tokenizer: VQTokenizer
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        for shape in read_shapes(config.data.buckets):
            check_bucket(shape, tokenizer.stride)
        self.shaped: dict[Split, list[Images]] = {
            split: shaped(config, each, split) for split, each in images.items()
        }
        sizes = [len(each) for each in self.shaped["train"]]
        self.order = BucketOrder(sizes, config.optim.batch, config.seed)
        self.captions = CaptionSource(config, images) if config.network.caption_width else None

    def batches(self, share: slice) -> Dataset[Batch]:
        """Item `step` is the `share` of one rank of the batch of that step, on the CPU."""
        config, images = self.config, self.shaped["train"]
        batch, seed, masking = config.optim.batch, config.seed, config.masking
        caches = self.caches.get("train", [None] * len(images))
        sources = [self._source(each, cache, share) for each, cache in zip(images, caches)]
        source = sources[0]
        if buckets := [each for each in images if isinstance(each, Bucket)]:
            source = BucketBatches(sources, buckets, self.order, batch, share)
        if self.captions:
            source = CaptionBatches(source, self.features["train"], seed, masking.class_drop)
        stride = self.tokenizer.stride
        return MaskedBatches(source, masking.schedule, batch, stride, seed, share)

    @cached_property
    def caches(self) -> dict[Split, list[TokenCache]]:
        """Caches of each split by shape, written first if missing; none where tokens are online."""
        if self.config.data.tokens != "cache":
            return {}
        found: dict[Split, list[TokenCache]] = {}
        for split, images in self.shaped.items():
            found[split] = [
                cached_tokens(self.config, each, self.tokenizer, split) for each in images
            ]
        return found

    @cached_property
    def features(self) -> Mapping[Split, CaptionCache | BlankCaptions]:
        """The features of the captions of each split, written first if missing."""
        assert self.captions
        return self.captions.caches()

    def leave_captions_unread(self) -> None:
        """For a dry run: do not write the features that are missing."""
        if self.captions:
            self.features = self.captions.blank()

    @cached_property
    def validation(self) -> list[Group]:
        """Tokens, and labels or captions, of up to VALIDATION_IMAGES images, evenly spread."""
        images = self.shaped["val"]
        caches = self.caches.get("val", [None] * len(images))
        most = VALIDATION_IMAGES // len(images)
        return [self._validation(*pair, most) for pair in zip(images, caches)]

    def said(self, split: Split, rows: np.ndarray) -> FirstCaptions:
        """The first caption of each of `rows` of the data set."""
        return FirstCaptions(self.features[split], rows)

    def caption_features(self) -> Tensor:
        """Features (n, C) of the tokens of up to MEASURED_CAPTIONS captions, evenly spread."""
        features = self.features["train"]
        rows = spread(len(features.counts), MEASURED_CAPTIONS)
        captions = features.captions(rows, np.zeros_like(rows))
        return captions.features if captions.mask is None else captions.features[~captions.mask]

    def text_origin(self) -> TextOrigin | None:
        """What made the features of captions, if there are any, and how long those are."""
        if not self.captions:
            return None
        return self.captions.origin._replace(null_tokens=self.features["train"].usual_length)

    def content(self) -> Content:
        """The tokenizer, and what captions there are and who reads them."""
        content: Content = {"tokenizer": self.tokenizer.fingerprint}
        if self.captions:
            content["text encoder"] = self.captions.origin.fingerprint
            content["sha256 of captions"] = captions_hash(self.captions.tables["train"])
        return content

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (B, h, w) of images (B, 3, H, W) uint8, on the device of the tokenizer."""
        return encode_crops(self.tokenizer, images, self.config.data.cache_precision)

    def _source(self, images: Images, cache: TokenCache | None, share: slice) -> Dataset[Batch]:
        """Batches of images of one shape, from their cache if they have one."""
        config, data = self.config, self.config.data
        labels = cache.labels if cache else images.labels
        crops = cache.num_crops if cache else num_crops(data.crops)
        sampler = Sampler(labels, config.optim.batch, config.seed, data.balance, crops)
        if cache:
            return TokenBatches(cache, sampler, share)
        bad, size = bad_files(config, images), size_of(config, images)
        return ImageBatches(images, sampler, share, data.crops, size, bad)

    def _validation(self, images: Images, cache: TokenCache | None, most: int) -> Group:
        if cache:
            rows = np.flatnonzero(cache.labels >= 0)
            rows = rows[spread(len(rows), most)]
            tokens, labels = cache.tokens(rows, np.zeros_like(rows)), cache.labels[rows]
        else:
            crops, read = center_crops(self.config, images, spread(len(images), most))
            rows, labels = read.numpy(), images.labels[read.numpy()]
            device = next(self.tokenizer.parameters()).device
            tokens = torch.cat([self.encode(part.to(device)).cpu() for part in crops.split(64)])
        if self.captions:
            rows = images.rows[rows] if isinstance(images, Bucket) else rows
            return tokens, self.said("val", rows)
        return tokens, torch.from_numpy(labels)


def write_caches(config: RunConfig) -> None:
    """The job `cache`: write what a generator reads of both splits, and nothing else."""
    images: dict[Split, Images] = {split: open_split(config, split) for split in SPLITS}
    source = GeneratorData(config, images, open_tokenizer(config.tokenizer))
    assert source.caches
    if source.captions:
        assert source.features


def has_cache(config: RunConfig) -> bool:
    """Whether nothing is to be encoded: all caches of both splits are complete."""
    return has_tokens(config) and (not config.network.caption_width or has_captions(config))
