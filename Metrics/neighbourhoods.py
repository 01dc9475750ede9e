"""How many generated images lie among the real ones, and how many real ones among the generated.

"Among" means: no further from some image than its own k-th neighbour is, itself not counted. Equal
distances count, as in ADM's evaluator and torch-fidelity; prdc leaves them out. Everything goes by
blocks, so memory holds the features in float64 and little else. N real and M generated images,
R rows of a block, D width, G groups.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from Metrics.feature_rows import check_count, check_widths, finite_rows

K, DENSITY_K = 3, 5  # of the two papers
ROWS = 256  # rows of a block of distances: 256 x 50,000 of them take 100 MB


class Neighbourhoods(NamedTuple):
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Shares of images, 0 to 1; only a density may be larger.
    """

    precision: float  # of the generated images, those in the neighbourhood of a real one
    recall: float  # of the real images, those in the neighbourhood of a generated one
    density: float  # in how many real neighbourhoods a generated image lies, over k
    coverage: float  # of the real images, those with a generated one in their neighbourhood


def precision_recall(real: Tensor, generated: Tensor, k: int = K) -> tuple[float, float]:
    """Improved precision and recall of features (N, D) and (M, D).

    Raises UserError for k images or fewer, other widths and values that are not finite.
    """
    return neighbourhoods(real, generated, k=k, density_k=k)[0][:2]


def density_coverage(real: Tensor, generated: Tensor, k: int = DENSITY_K) -> tuple[float, float]:
    """Density and coverage of features (N, D) and (M, D). Raises UserError for the same."""
    return neighbourhoods(real, generated, k=k, density_k=k)[0][2:]


def neighbourhoods(
    real: Tensor,
    generated: Tensor,
    groups: Tensor | None = None,
    *,
    k: int = K,
    density_k: int = DENSITY_K,
) -> list[Neighbourhoods]:
    """All four of features (N, D) and (M, D), at `k` the first two and at `density_k` the others.

    Then, of generated images that are in `groups` (M,) int64, the same without each group: exactly,
    though no distance is computed again. Raises UserError for k images or fewer, other widths and
    values that are not finite.
    """
    if groups is None:
        groups = torch.zeros(len(generated), dtype=torch.int64)
    most = max(k, density_k)
    check_count(f"Neighbourhoods at k={most}", most + 1, min(len(real), len(generated)))
    real = finite_rows("the real features", real)
    generated = finite_rows("the generated features", generated[groups.argsort(stable=True)])
    sizes = groups.bincount().tolist()
    check_widths("the real features", real, "the generated features", generated)
    centre = real.mean(0)  # small numbers, small rounding: distances do not depend on the origin
    real = real - centre
    generated -= centre  # a copy already, and the largest that there is
    # An equal distance may come out larger in its last digits, and must count all the same.
    rounding = 1e-12 * max(_squared_norms(real).max(), _squared_norms(generated).max())
    reach = _nearest(real, [len(real)], most)[:, 0] + rounding  # (N, most)
    kept = _all_and_without_each(len(sizes)).to(real.device)  # (1 + G, G)
    of_kept = kept.repeat_interleave(torch.tensor(sizes, device=real.device), 1)  # (1 + G, M)
    nearest = _nearest(generated, sizes, k) + rounding  # (M, G, k)
    generated_reach = [nearest[:, groups].flatten(1).kthvalue(k).values for groups in kept]
    balls = torch.stack(generated_reach).masked_fill(~of_kept, -1)  # no ball, not even of radius 0
    holding, recalled, closest = _compare(
        real, generated, sizes, reach[:, [k - 1, density_k - 1]], balls
    )
    covered = [closest[:, groups].amin(1) <= reach[:, density_k - 1] for groups in kept]
    return [
        Neighbourhoods(
            precision=_share(holding[0, images] > 0),
            recall=_share(recalled[number]),
            density=holding[1, images].double().mean().item() / density_k,
            coverage=_share(covered[number]),
        )
        for number, images in enumerate(of_kept)
    ]


def _compare(
    real: Tensor, generated: Tensor, sizes: list[int], reach: Tensor, balls: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), (M, D), reaches (N, 2) and (1 + G, M) -> what the scores count.

    In how many neighbourhoods of each reach a generated image lies (2, M), whether a real one lies
    in one of each row of balls (1 + G, N), and how near every group comes to it (N, G).
    """
    holding = torch.zeros(2, len(generated), dtype=torch.int64, device=real.device)
    recalled, closest = [], []
    for rows, distances in _squared_distances(real, generated):
        for number, own in enumerate(reach[rows].unbind(1)):
            holding[number] += (distances <= own[:, None]).sum(0)
        recalled.append(torch.stack([(distances <= ball).any(1) for ball in balls]))
        closest.append(torch.stack([part.amin(1) for part in distances.split(sizes, 1)], 1))
    return holding, torch.cat(recalled, 1), torch.cat(closest)


def _nearest(features: Tensor, sizes: list[int], k: int) -> Tensor:
    """Squared distances of every row (N, D) to the k nearest others of each group: (N, G, k).

    Groups of `sizes` follow each other; ascending, infinite where a group has fewer.
    """
    blocks = []
    for rows, distances in _squared_distances(features, features):
        distances[torch.arange(len(rows), device=rows.device), rows] = torch.inf  # itself
        parts = [
            part.topk(min(k, part.shape[1]), largest=False).values
            for part in distances.split(sizes, 1)
        ]
        padded = [F.pad(part, (0, k - part.shape[1]), value=torch.inf) for part in parts]
        blocks.append(torch.stack(padded, 1))
    return torch.cat(blocks)


def _squared_distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Of rows (N, D) to columns (M, D), by blocks: the numbers of R rows, and their (R, M)."""
    row_norms, column_norms = _squared_norms(rows), _squared_norms(columns)
    for block in torch.arange(len(rows), device=rows.device).split(ROWS):
        norms = row_norms[block, None] + column_norms  # (R, M)
        yield block, norms.addmm_(rows[block], columns.T, alpha=-2)


def _squared_norms(rows: Tensor) -> Tensor:
    """Of rows (N, D): (N,). By blocks: the squares of all would take as much memory again."""
    return torch.cat([block.square().sum(1) for block in rows.split(ROWS)])


def _all_and_without_each(num_groups: int) -> Tensor:
    """(1 + G, G) of which groups count: all, then all but one; of one group (1, 1)."""
    every = torch.ones(1, num_groups, dtype=torch.bool)
    if num_groups == 1:
        return every
    return torch.cat([every, ~torch.eye(num_groups, dtype=torch.bool)])


def _share(of_images: Tensor) -> float:
    return of_images.double().mean().item()
