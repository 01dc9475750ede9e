"""The kernel inception distance: unlike an FID, no larger on average where images are fewer.

The unbiased squared MMD of Gretton et al. 2012, eq. 3, with the kernel (x y / D + 1)^3 of Binkowski
et al. 2018: below 0 as often as above where the sets are alike. N real and M generated images,
R rows of a block, D width, G groups, S subsets.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from Metrics.feature_rows import check_count, check_widths, finite_rows

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's draw
ROWS = 256  # rows of a block of kernels: 256 x 10,000 of them take 20 MB


def kernel_distance(
    real: Tensor,
    generated: Tensor,
    *,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> tuple[float, float]:
    """The KID of features (N, D) and (M, D): mean and standard deviation over `subsets` draws.

    Each draw takes `size` images of either set, none twice, of the generated ones first: the draw
    of torch-fidelity, image by image. The deviation, divided by `subsets`, is that of draws and no
    error of the mean. Raises UserError for fewer images than `size`, other widths and values that
    are not finite.
    """
    real, generated = _both(real, generated)
    check_count(f"A KID of subsets of {size}", max(size, 2), min(len(real), len(generated)))
    random = np.random.RandomState(seed)  # numpy's frozen one, as the packages do
    counts = len(generated), len(real)
    drawn = [[random.choice(count, size, False) for count in counts] for _ in range(subsets)]
    if max(counts) ** 2 <= subsets * size**2:  # to look at every pair once is less work
        of_generated, of_real = (torch.zeros(subsets, count).to(real) for count in counts)
        for number, (generated_rows, real_rows) in enumerate(drawn):
            of_generated[number, generated_rows] = 1
            of_real[number, real_rows] = 1
        values = _squared_mmds(real, generated, of_real, of_generated)
    else:
        every = torch.ones(1, size).to(real)
        values = [_squared_mmds(real[r], generated[g], every, every)[0] for g, r in drawn]
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(real: Tensor, generated: Tensor, groups: Tensor) -> tuple[float, list[float]]:
    """The same of all images, without a draw; and without each of the `groups` (M,) int64.

    Features (N, D) and (M, D). Raises UserError as `kernel_distance` does.
    """
    real, generated = _both(real, generated)
    check_count("A KID", 2, min(len(real), len(generated)))
    without = 1 - F.one_hot(groups).T.to(generated)  # (G, M)
    of_generated = torch.cat([torch.ones_like(without[:1]), without])
    of_real = torch.ones(len(of_generated), len(real)).to(real)
    whole, *rest = _squared_mmds(real, generated, of_real, of_generated)
    return whole, rest


def _squared_mmds(
    real: Tensor, generated: Tensor, of_real: Tensor, of_generated: Tensor
) -> list[float]:
    """Of S subsets: those images of which `of_real` (S, N) and `of_generated` (S, M) are 1."""
    among_real = _sums(real, real, of_real, of_real, itself=False)
    among_generated = _sums(generated, generated, of_generated, of_generated, itself=False)
    between = _sums(real, generated, of_real, of_generated, itself=True)
    num_real, num_generated = of_real.sum(1), of_generated.sum(1)
    among_real = among_real / (num_real * (num_real - 1))
    among_generated = among_generated / (num_generated * (num_generated - 1))
    return (among_real + among_generated - 2 * between / (num_real * num_generated)).tolist()


def _sums(
    first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor, *, itself: bool
) -> Tensor:
    """Kernels summed over the pairs of each subset (S,); `itself`: also of a row with its equal."""
    total = torch.zeros(len(of_first)).to(first)
    for rows in torch.arange(len(first), device=first.device).split(ROWS):
        product = first[rows] @ second.T / first.shape[1] + 1  # (R, M)
        kernel = product.square() * product  # twice as fast as a power of 3
        if not itself:
            kernel[torch.arange(len(rows), device=rows.device), rows] = 0
        total += (of_first[:, rows] @ kernel * of_second).sum(1)
    return total


def _both(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    real = finite_rows("the real features", real)
    generated = finite_rows("the generated features", generated)
    check_widths("the real features", real, "the generated features", generated)
    return real, generated
