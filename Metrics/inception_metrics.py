"""Mean and covariance of the features of images, and the Fréchet distance of two of them, the FID.

Everything is float64: at width 2048 float32 would move an FID of 28 by 0.1 or more.
B images of a batch, N of a set, D feature width, R rank of a covariance.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from Metrics.feature_rows import Array, check_count, check_widths, finite_rows


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, on one rank or on many.

    Kept are the mean and the scatter about it, joined pairwise (Chan, Golub & LeVeque 1979), so
    that features far from zero lose nothing to cancellation, as plain sums of products would. Rows
    wait until they are more than D and are joined at once: that is much faster. Of D or fewer all
    stay: as such they are smaller than their covariance, and a `Gaussian` knows more of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._moments: _Moments | None = None  # of all rows but those that wait
        self._waiting: list[Tensor] = []  # rows (B, D)
        self._rows: list[Tensor] | None = []  # all of them, (B, D), as long as they are D or fewer

    def update(self, features: Tensor) -> None:
        """Add features (B, D). B = 0 only sets the width, for a rank that sees no images.

        Raises UserError for another width than before and for values that are not finite.
        """
        features = finite_rows("the features", features)
        if self._moments is None:
            self._moments = _Moments.of(features[:0])
        check_widths("the features", features, "those before", self._moments.mean)
        self._keep(len(features), [features])
        self._waiting.append(features)
        if sum(map(len, self._waiting)) > features.shape[1]:
            self._joined()

    def merge(self, other: "FeatureStatistics") -> None:
        """Add all that `other` has seen; `other` stays as it is."""
        if other._moments is None:
            return
        self.update(other._moments.mean.new_empty(0, len(other._moments.mean)))
        self._keep(other.count, other._rows)
        self._moments = self._joined().joined(other._joined())

    @property
    def mean(self) -> Tensor:
        """Mean of the features (D,), float64."""
        check_count("A mean", 1, self.count)
        return self._joined().mean

    @property
    def covariance(self) -> Tensor:
        """Covariance of the features (D, D), float64, divided by count - 1 as `numpy.cov` does."""
        check_count("A covariance", 2, self.count)
        return self._joined().scatter / (self.count - 1)

    def gaussian(self) -> "Gaussian":
        """Their Gaussian, of D images or fewer through the features. Raises UserError for one."""
        if self._rows is None:
            return Gaussian.of(self.mean, self.covariance)
        check_count("A covariance", 2, self.count)
        rows = torch.cat(self._rows).cpu()  # (N, D)
        factor = (rows - rows.mean(0)).T / math.sqrt(self.count - 1)  # (D, N)
        return Gaussian(rows.mean(0), factor, of_features=True)

    def state(self) -> dict[str, Tensor]:
        """Plain sums, float64: count (), sum (D,), products (D, D). Ranks add theirs (all_reduce).

        Sums about zero lose log10(mean^2 / variance) of 16 digits, which is next to nothing for
        Inception features; within a rank, where most sums are made, nothing is lost at all.
        """
        count, mean, scatter = self._joined()
        return {
            "count": mean.new_tensor(float(count)),
            "sum": mean * count,
            "products": scatter + count * torch.outer(mean, mean),
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "FeatureStatistics":
        """Statistics of everything counted in `state`, which may be a sum of several states."""
        statistics = cls()
        statistics.count = count = round(state["count"].item())
        mean = state["sum"] / max(count, 1)
        scatter = state["products"] - count * torch.outer(mean, mean)
        statistics._moments, statistics._rows = _Moments(count, mean, scatter), None
        return statistics

    def _keep(self, count: int, rows: list[Tensor] | None) -> None:
        self.count += count
        assert self._moments is not None
        if self._rows is None or rows is None or self.count > len(self._moments.mean):
            self._rows = None
        else:
            self._rows += rows

    def _joined(self) -> "_Moments":
        """The moments of all rows: none waits any more."""
        assert self._moments is not None, "update() comes first, if need be with an empty batch"
        if self._waiting:
            self._moments = self._moments.joined(_Moments.of(torch.cat(self._waiting)))
            self._waiting = []
        return self._moments


class Gaussian(NamedTuple):
    """What a Fréchet distance asks of features: their mean, and a factor F of their covariance.

    F F^T is the covariance and R its rank, or one more: of D images or fewer F are the centred
    features themselves, else the Cholesky factor; and of a covariance that is known alone and has
    no full rank its eigenvectors without those whose eigenvalues are zero but for rounding.
    """

    mean: Tensor  # (D,), float64 on the CPU
    factor: Tensor  # (D, R)
    of_features: bool = False

    @classmethod
    def of(cls, mean: Array, covariance: Array) -> "Gaussian":
        """With mean (D,) and covariance (D, D).

        Raises UserError for widths that differ and for values that are not finite.
        """
        mean = finite_rows("the means", mean).cpu().flatten()
        covariance = finite_rows("the covariances", covariance).cpu()
        check_widths("the mean", mean, "the covariance", covariance)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        return cls(mean, _eigen_factor(covariance) if failed else factor)

    def distance(self, other: "Gaussian") -> float:
        """Their Fréchet distance, >= 0. Raises UserError for widths that differ."""
        check_widths("the first mean", self.mean, "the second mean", other.mean)
        traces = self.factor.square().sum() + other.factor.square().sum()
        distance = (self.mean - other.mean).square().sum() + traces
        return max((distance - 2 * _trace_of_root(self, other)).item(), 0.0)  # or -1e-12


def frechet_distance(mean1: Array, covariance1: Array, mean2: Array, covariance2: Array) -> float:
    """Fréchet distance of two Gaussians with means (D,) and covariances (D, D): the FID, >= 0.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).
    No square root of a matrix and nothing complex; on the CPU, seconds at D = 2048.
    Raises UserError for widths that differ and for values that are not finite.
    """
    return Gaussian.of(mean1, covariance1).distance(Gaussian.of(mean2, covariance2))


def distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """The Fréchet distance of two sets of features. Raises UserError as `frechet_distance`."""
    return first.gaussian().distance(second.gaussian())


def _trace_of_root(first: Gaussian, second: Gaussian) -> Tensor:
    """tr (S1 S2)^1/2 of covariances with factors F1, F2: the singular values of F1^T F2, added up.

    For S1 S2 = F1 F1^T F2 F2^T has the eigenvalues of the symmetric M M^T with M = F1^T F2. These
    are had in half the time, but of one that is zero only 1e-16 is known, and its root is 1e-8.
    Where there are features, and so eigenvalues that are zero, the singular values are taken.
    """
    product = first.factor.T @ second.factor  # (R1, R2)
    if first.of_features or second.of_features:
        return torch.linalg.svdvals(product).sum()
    if product.shape[0] > product.shape[1]:
        product = product.T
    return torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()


def _eigen_factor(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]  # as numpy ranks
    return vectors[:, kept] * values[kept].sqrt()


class _Moments(NamedTuple):
    """Of rows, which are not kept."""

    num_rows: int
    mean: Tensor  # (D,)
    scatter: Tensor  # (D, D), sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, rows: Tensor) -> "_Moments":
        """Of rows (N, D)."""
        mean = rows.sum(0) / max(len(rows), 1)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def joined(self, other: "_Moments") -> "_Moments":
        """Of both. New tensors: whoever holds an earlier mean keeps it."""
        total = self.num_rows + other.num_rows
        share = other.num_rows / max(total, 1)
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(shift, shift, alpha=self.num_rows * share)
        return _Moments(total, self.mean + shift * share, scatter)
