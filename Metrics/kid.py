"""The kernel inception distance: a distance of two sets of features whose mean, unlike an FID's,
does not depend on how many images there are.

The unbiased squared MMD of Gretton et al. 2012, eq. 3, with the kernel (x y / D + 1)^3 of Binkowski
et al. 2018: below 0 as often as not where the sets are alike. N, M images, D width, G groups.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from Metrics.feature_rows import check_count, check_widths, finite_rows

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's draw
ROWS = 256  # rows of a block of kernels: 256 x 10,000 of them take 20 MB


def kernel_distance(
    generated: Tensor,
    real: Tensor,
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
    generated, real = _both(generated, real)
    check_count(f"A KID of subsets of {size}", max(size, 2), min(len(generated), len(real)))
    random = np.random.RandomState(seed)  # numpy's frozen one, as the packages do
    values = []
    for _ in range(subsets):
        rows = [torch.from_numpy(random.choice(len(x), size, False)) for x in (generated, real)]
        values += _squared_mmds(generated[rows[0]], real[rows[1]], torch.ones(1, size))
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(generated: Tensor, real: Tensor, groups: Tensor) -> tuple[float, list[float]]:
    """The same of all images, without a draw; and without each of the `groups` (N,) int64.

    Features (N, D) and (M, D). Raises UserError as `kernel_distance` does.
    """
    generated, real = _both(generated, real)
    check_count("A KID", 2, min(len(generated), len(real)))
    whole, *without = _squared_mmds(generated, real, F.one_hot(groups).T)
    return whole, without


def _squared_mmds(generated: Tensor, real: Tensor, member: Tensor) -> list[float]:
    """Of all generated images, then without each of several groups; member (G, N) is 0 or 1."""
    member = member.to(generated)
    own = torch.zeros(len(member), len(member)).to(member)  # sums over pairs of groups (G, G)
    cross = own[0].clone()  # and over a group and all real images (G,)
    for rows in torch.arange(len(generated), device=generated.device).split(ROWS):
        own += member[:, rows] @ _of_two_images(generated, rows) @ member.T
        cross += member[:, rows] @ _kernel(generated[rows], real).sum(1)
    every_row = torch.arange(len(real), device=real.device).split(ROWS)
    real_sum = torch.stack([_of_two_images(real, rows).sum() for rows in every_row]).sum()
    kept = torch.cat([torch.ones_like(cross)[None], 1 - torch.eye(len(own)).to(own)])
    kept = kept if len(own) > 1 else kept[:1]  # (G + 1, G)
    count, real_count = kept @ member.sum(1), len(real)
    own = (kept @ own * kept).sum(1) / (count * (count - 1))
    cross = kept @ cross / (count * real_count)
    return (own + real_sum / (real_count * (real_count - 1)) - 2 * cross).tolist()


def _of_two_images(features: Tensor, rows: Tensor) -> Tensor:
    """Kernels of some rows with all (R, N), 0 where both are the same image."""
    kernel = _kernel(features[rows], features)
    kernel[torch.arange(len(rows), device=rows.device), rows] = 0
    return kernel


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    product = first @ second.T / first.shape[1] + 1  # (R, N)
    return product.square() * product  # twice as fast as a power of 3


def _both(generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    generated = finite_rows("the generated features", generated)
    real = finite_rows("the real features", real)
    check_widths("the generated features", generated, "the real features", real)
    return generated, real
