"""The whole block of attention has its plain formulation in test_gpt.py."""

import pytest
import torch
import torch.nn.functional as F

from Network.attention import attend, causal_mask, take_rows


def heads(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [None, "mask", "causal"])
def test_the_product_in_bfloat16_is_that_of_the_fused_kernel(masked):
    """On a CPU it is written out, because its backward pass is faster."""
    q, keys, values = (heads(2, 3, 7, 8, seed=seed) for seed in range(3))
    mask = causal_mask(7, 0, q.device) if masked == "mask" else None
    exact = attend(q, keys, values, mask, causal=masked == "causal")
    rounded = [each.bfloat16() for each in (q, keys, values)]
    found = attend(*rounded, mask, causal=masked == "causal")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.03)  # 8 bits
    expected = F.scaled_dot_product_attention(q, keys, values, is_causal=masked is not None)
    torch.testing.assert_close(exact, expected)


def test_a_query_sees_what_is_earlier_and_itself():
    assert causal_mask(3, 2, torch.device("cpu")).int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_rows_are_taken_of_each_image():
    x, rows = heads(2, 5, 4), torch.tensor([[4, 0, 0], [1, 2, 3]])
    assert torch.equal(take_rows(x, rows), torch.stack([x[0, rows[0]], x[1, rows[1]]]))
