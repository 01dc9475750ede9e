"""What features have to be; the sentences are those of the metrics that stand on it too."""

import numpy as np
import pytest
import torch

from Metrics.feature_rows import check_count, check_widths, finite_rows
from Network.config import UserError


def test_rows_are_float64_and_one_row_is_a_set_of_one():
    rows = finite_rows("the means", np.arange(3, dtype=np.float32))
    assert rows.dtype == torch.float64
    assert rows.tolist() == [[0, 1, 2]]
    learnt = torch.zeros(2, 3, requires_grad=True)
    assert not finite_rows("the features", learnt).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(bad):
    rows = torch.zeros(4, 2)
    rows[3, 1] = bad
    with pytest.raises(UserError, match="^The logits hold NaN or infinity: look at the weights"):
        finite_rows("the logits", rows)


def test_feature_maps_widths_and_counts():
    with pytest.raises(UserError, match=r"^The features have shape \(2, 3, 4, 4\): flatten them"):
        finite_rows("the features", torch.zeros(2, 3, 4, 4))
    with pytest.raises(UserError, match="^The one and the other have widths 3 and 4: take both"):
        check_widths("the one", torch.zeros(5, 3), "the other", torch.zeros(5, 4))
    check_widths("the one", torch.zeros(5, 3), "the other", torch.zeros(3))
    with pytest.raises(UserError, match="^A mean: at least 2 images are needed, got 1; raise num_"):
        check_count("A mean", 2, 1)
    check_count("A mean", 2, 2)
