"""Mean and covariance of the features of images, and the Fréchet distance of two of them, the FID.

Everything is float64: at width 2048 float32 would move an FID of 28 by 0.1 or more.
B images of a batch, D feature width.
"""

import torch
from torch import Tensor

from Metrics.feature_rows import Array, check_count, check_widths, finite_rows


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
        features = finite_rows("the features", features)
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
        check_count("A mean", 1, self.count)
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Covariance of the features (D, D), float64, divided by count - 1 as `numpy.cov` does."""
        check_count("A covariance", 2, self.count)
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
        check_widths("the features", mean, "those before", self._mean)
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
    mean1, mean2 = (finite_rows("the means", mean).cpu().flatten() for mean in (mean1, mean2))
    covariance1, covariance2 = (
        finite_rows("the covariances", covariance).cpu()
        for covariance in (covariance1, covariance2)
    )
    check_widths("the first mean", mean1, "the second mean", mean2)
    check_widths("the first mean", mean1, "the first covariance", covariance1)
    check_widths("the second mean", mean2, "the second covariance", covariance2)
    overlap = _trace_of_root(covariance1, covariance2)
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace()
    return max((distance - 2 * overlap).item(), 0.0)  # rounding may leave -1e-12


def distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """`frechet_distance` of two sets of features. Raises UserError as it does."""
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


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
