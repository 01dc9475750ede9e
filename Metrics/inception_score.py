"""The inception score: how sure a classifier is of each image, and how varied it finds all of them.

exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016, eq. 3), from 1 to the number of classes, as a mean
over blocks of images: the fewer a block has, the smaller its score. N images, C classes.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from Metrics.feature_rows import check_count, finite_rows

ADM_BLOCK = 5000  # images
SEED = 2020  # torch-fidelity's


def inception_score(
    logits: Tensor, splits: int = 10, seed: int | None = None
) -> tuple[float, float]:
    """Mean and standard deviation, divided by `splits`, over blocks of logits (N, C).

    Without `seed` the blocks are contiguous; with it the images are shuffled first, as
    torch-fidelity does with its seed 2020. Never NaN, however sure the network is. Raises UserError
    for fewer images than blocks and for values that are not finite.
    """
    logits = finite_rows("the logits", logits)
    check_count("An inception score", splits, len(logits))
    if seed is not None:
        # numpy's frozen generator: the packages draw from it, and so do we
        order = np.random.RandomState(seed).permutation(len(logits))
        logits = logits[torch.from_numpy(order)]
    return _over_blocks(logits, [block * len(logits) // splits for block in range(splits + 1)])


def adm_inception_score(logits: Tensor, block: int = ADM_BLOCK) -> tuple[float, float]:
    """As ADM's evaluator has it: over contiguous blocks of so many images, of logits (N, C).

    Those are without the classifier's bias. A last, smaller block counts as much as the others.
    Of images sorted by class, blocks of few classes make the score far too small: see
    `follows_classes`. Raises UserError as `inception_score` does.
    """
    logits = finite_rows("the logits", logits)
    check_count("An inception score", 1, len(logits))
    return _over_blocks(logits, [*range(0, len(logits), block), len(logits)])


def follows_classes(labels: NDArray[np.int64]) -> bool:
    """Whether neighbours in a set with labels (N,) share their class far more often than chance.

    That is: their class changes less than half as often as in a random order.
    """
    shares = np.unique(labels, return_counts=True)[1] / max(len(labels), 1)
    expected = (len(labels) - 1) * (1 - np.square(shares).sum())
    return bool(np.count_nonzero(np.diff(labels)) < expected / 2)


def _over_blocks(logits: Tensor, ends: Iterable[int]) -> tuple[float, float]:
    scores = torch.stack([_block_score(logits[start:end]) for start, end in pairwise(ends)])
    return scores.mean().item(), scores.std(correction=0).item()


def _block_score(logits: Tensor) -> Tensor:
    # Logarithms throughout: a probability may underflow to 0, its logarithm stays finite.
    log_p = logits.log_softmax(1)  # (B, C)
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))  # (C,)
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp()
