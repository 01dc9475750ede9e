"""Numbers from the features of images: running statistics, FID, inception score, precision, recall.

Everything is float64: at width 2048 float32 would move an FID of 28 by 0.1 or more.
N images, D feature width, C classes of the feature network.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from Network.config import UserError

Array = Tensor | np.ndarray  # reference statistics come from .npz files, ours from tensors

ROWS = 256  # rows of a block of distances: 256 x 50,000 of them take 100 MB


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, on one rank or on many.

    Kept are the mean and the scatter about it, joined pairwise (Chan, Golub & LeVeque 1979), so
    that features far from zero lose nothing to cancellation, as plain sums of products would.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0)  # (D,); D = 0 until the first batch
        self._scatter = torch.zeros(0, 0)  # (D, D), sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor) -> None:
        """Add features (B, D). B = 0 only sets the width, for a rank that sees no images.

        Raises UserError for another width than before and for values that are not finite.
        """
        features = _rows("the features", features)
        mean = features.sum(0) / max(len(features), 1)  # (D,)
        centred = features - mean
        self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add all that `other` has seen; `other` stays as it is."""
        if len(other._mean) > 0:
            self._join(other.count, other._mean, other._scatter)

    @property
    def mean(self) -> Tensor:
        """Mean of the features (D,), float64."""
        _enough("A mean", 1, self.count)
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Covariance of the features (D, D), float64, divided by count - 1 as `numpy.cov` does."""
        _enough("A covariance", 2, self.count)
        return self._scatter / (self.count - 1)

    def state(self) -> dict[str, Tensor]:
        """Plain sums, float64: count (), sum (D,), products (D, D). Ranks add theirs (all_reduce).

        Sums about zero lose log10(mean^2 / variance) of 16 digits, which is next to nothing for
        Inception features; within a rank, where most sums are made, nothing is lost at all.
        """
        assert len(self._mean) > 0, "update() comes first, if need be with an empty batch"
        return {
            "count": self._mean.new_tensor(float(self.count)),
            "sum": self._mean * self.count,
            "products": self._scatter + self.count * torch.outer(self._mean, self._mean),
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "FeatureStatistics":
        """Statistics of everything counted in `state`, which may be a sum of several states."""
        statistics = cls()
        statistics.count = round(state["count"].item())
        statistics._mean = mean = state["sum"] / max(statistics.count, 1)
        statistics._scatter = state["products"] - statistics.count * torch.outer(mean, mean)
        return statistics

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if len(self._mean) == 0:
            self._mean, self._scatter = torch.zeros_like(mean), torch.zeros_like(scatter)
        _same_width("the features", mean, "those before", self._mean)
        total = self.count + count
        share = count / max(total, 1)
        shift = mean - self._mean
        # New tensors, not in place: whoever holds an earlier mean keeps it.
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.count * share)
        self._mean = self._mean + shift * share
        self.count = total


def frechet_distance(mean1: Array, covariance1: Array, mean2: Array, covariance2: Array) -> float:
    """Fréchet distance of two Gaussians with means (D,) and covariances (D, D): the FID, >= 0.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).
    With S1 = L L^T the eigenvalues of S1 S2 are those of the symmetric L^T S2 L, and the trace of
    the root is the sum of their roots: no square root of a matrix and nothing complex. On the CPU,
    seconds at D = 2048.
    Raises UserError for widths that differ and for values that are not finite.
    """
    mean1, mean2 = (_rows("the means", mean).cpu().flatten() for mean in (mean1, mean2))
    covariance1, covariance2 = (
        _rows("the covariances", covariance).cpu() for covariance in (covariance1, covariance2)
    )
    _same_width("the first mean", mean1, "the second mean", mean2)
    _same_width("the first mean", mean1, "the first covariance", covariance1)
    _same_width("the second mean", mean2, "the second covariance", covariance2)
    overlap = _trace_of_root(covariance1, covariance2)
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace()
    return max((distance - 2 * overlap).item(), 0.0)  # rounding may leave -1e-12


def distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """`frechet_distance` of two sets of features. Raises UserError as it does."""
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception score of logits (N, C): mean and standard deviation over `splits` blocks.

    exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016, eq. 3), >= 1. The blocks are contiguous and the
    deviation divides by `splits`: ADM's evaluator at N = 50,000. Images sorted by class would make
    blocks of few classes, so interleave the classes first. Never NaN, however sure the network is.
    Raises UserError for fewer images than blocks and for values that are not finite.
    """
    logits = _rows("the logits", logits)
    _enough("An inception score", splits, len(logits))
    ends = [block * len(logits) // splits for block in range(splits + 1)]
    scores = torch.stack([_block_score(logits[a:b]) for a, b in pairwise(ends)])
    return scores.mean().item(), scores.std(correction=0).item()


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features (N, D) and (M, D).

    Precision: the share of generated images no further from some real image than its k-th real
    neighbour (itself not counted); recall: the same with the roles swapped. Equal distances count,
    as in ADM's evaluator; `prdc` leaves them out. Memory: the features in float64 and one block.
    Raises UserError for k images or fewer, other widths and values that are not finite.
    """
    real, generated = _rows("the real features", real), _rows("the generated features", generated)
    _same_width("the real features", real, "the generated features", generated)
    _enough(f"Precision and recall at k={k}", k + 1, min(len(real), len(generated)))
    centre = real.mean(0)  # small numbers, small rounding: distances do not depend on the origin
    real, generated = real - centre, generated - centre
    # An equal distance may come out larger in its last digits, and must count all the same.
    rounding = 1e-12 * max(real.square().sum(1).max(), generated.square().sum(1).max())
    real_reach = _neighbour_distances(real, k) + rounding  # (N,)
    generated_reach = _neighbour_distances(generated, k) + rounding  # (M,)
    precise = torch.zeros_like(generated_reach, dtype=torch.bool)
    recalled = torch.zeros_like(real_reach, dtype=torch.bool)
    for block in torch.arange(len(real), device=real.device).split(ROWS):
        distances = _squared_distances(real[block], generated)  # (rows, M)
        precise |= (distances <= real_reach[block, None]).any(0)
        recalled[block] = (distances <= generated_reach).any(1)
    return precise.double().mean().item(), recalled.double().mean().item()


def _trace_of_root(covariance1: Tensor, covariance2: Tensor) -> Tensor:
    """tr (S1 S2)^1/2 of covariances (D, D), through a factor of one of them.

    Of D images or fewer the covariance has not full rank. Then a factor of the lower rank leaves a
    matrix of that size and no eigenvalue that is zero but for rounding, whose roots would add up.
    """
    factors = []
    for covariance in (covariance1, covariance2):
        factor, failed = torch.linalg.cholesky_ex(covariance)
        factors.append(_eigen_factor(covariance) if failed else factor)  # (D, rank)
    factor1, factor2 = factors
    if factor1.shape[1] <= factor2.shape[1]:
        product = factor1.T @ covariance2 @ factor1
    else:
        product = factor2.T @ covariance1 @ factor2
    return torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()


def _eigen_factor(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]  # as numpy ranks
    return vectors[:, kept] * values[kept].sqrt()


def _block_score(logits: Tensor) -> Tensor:
    # Logarithms throughout: a probability may underflow to 0, its logarithm stays finite.
    log_p = logits.log_softmax(1)  # (B, C)
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))  # (C,)
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp()


def _neighbour_distances(features: Tensor, k: int) -> Tensor:
    """Squared distance to the k-th neighbour of every row (N, D) -> (N,), itself not counted."""
    blocks = features.split(ROWS)
    return torch.cat([_squared_distances(b, features).kthvalue(k + 1).values for b in blocks])


def _squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)  # (R, M)
    return norms.addmm_(rows, columns.T, alpha=-2)


def _rows(name: str, values: Array) -> Tensor:
    rows = torch.atleast_2d(torch.as_tensor(values).detach())
    rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
    if rows.ndim != 2:
        raise UserError(
            f"{name.capitalize()} have shape {tuple(rows.shape)}: flatten them to one row an image."
        )
    if not rows.isfinite().all():
        raise UserError(
            f"{name.capitalize()} hold NaN or infinity: look at the weights and images behind them."
        )
    return rows.to(torch.float64)


def _same_width(name1: str, values1: Tensor, name2: str, values2: Tensor) -> None:
    width1, width2 = values1.shape[-1], values2.shape[-1]
    if width1 != width2:
        raise UserError(
            f"{name1.capitalize()} and {name2} have widths {width1} and {width2}: "
            "take both from the same layer of the same network."
        )


def _enough(what: str, needed: int, count: int) -> None:
    if count < needed:
        raise UserError(
            f"{what}: at least {needed} images are needed, got {count}; raise num_images."
        )
