"""Features of texts made white, so that no direction of theirs is too faint to be learned from.

An encoder that makes one vector of a text gives its words much in common, and what each adds, such
as which of two things is above the other, stands in directions of small variance.
Su et al. (2021, arXiv:2103.15316) whiten sentence embeddings; here it is the features of tokens.
Shapes: n tokens of many texts, C width of features.
"""

import torch
from torch import Tensor, nn

FLOOR = 1e-4  # of the largest variance: directions of less are mostly rounding, and stay fainter


class Whitening(nn.Module):
    """An affine map of features (..., C), to mean 0 and covariance 1 once it is measured.

    It is not trained: both parts are buffers, which weights keep. Before it does nothing.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))
        self.mean: Tensor
        self.matrix: Tensor

    @property
    def is_measured(self) -> bool:
        """Whether it has statistics of features, by `measure` or with its weights."""
        return bool(self.mean.any())

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Take the statistics of features (n, C), 2 rows or more."""
        features = features.double()
        variances, directions = torch.linalg.eigh(torch.cov(features.T))  # ascending
        floor = (FLOOR * variances[-1]).clamp(min=1e-8)  # all may be alike
        scales = (variances.clamp(min=0) + floor).rsqrt()
        self.mean.copy_(features.mean(0))
        self.matrix.copy_((directions * scales) @ directions.T)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., C), never in half precision: that would lose the faint directions."""
        kind = "cpu" if features.is_meta else features.device.type
        with torch.autocast(kind, enabled=False):
            return (features.to(self.mean.dtype) - self.mean) @ self.matrix
