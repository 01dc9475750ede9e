"""What an image is conditioned on, as tokens: here a class label, or nothing.

The null condition, which classifier-free guidance needs, is one more row of the table.
"""

from torch import Tensor, nn


class ClassCondition(nn.Module):
    """Labels -> one condition token each. Label `num_classes` is the null condition.

    With `num_classes` 0 the only label is the null one, and the network is unconditional.
    """

    num_tokens = 1

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, width)

    @property
    def null(self) -> int:
        """The label of the null condition."""
        return self.table.num_embeddings - 1

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) int64 in [0, num_classes] -> tokens (B, 1, D)."""
        return self.table(labels)[:, None]
