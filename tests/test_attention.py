"""The whole block of attention has its plain formulation in test_gpt.py."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from Network.attention import attend, causal_mask, take_rows
from Network.context import KVCache


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


# Grouped queries

LABELS = torch.tensor([1, 3])


@pytest.fixture
def pair():
    """A network of 4 heads and 2 of keys, and one of 4 that has each of those twice."""
    grouped, full = (tiny.network(heads=4, kv_heads=kv_heads) for kv_heads in (2, 0))
    state = grouped.state_dict()
    for name, rows in state.items():
        if name.endswith("qkv.weight"):
            q, *shared = rows.split([32, 16, 16])
            twice = (part.unflatten(0, (2, 8)).repeat_interleave(2, 0) for part in shared)
            state[name] = torch.cat([q, *(part.flatten(0, 1) for part in twice)])
    full.load_state_dict(state)
    return grouped, full


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_heads_that_share_keys_are_heads_with_equal_ones(pair, causal):
    tokens, rows = tiny.tokens(), torch.tensor([[3, 0, 15], [9, 14, 2]])
    found, expected = (
        [
            network(tokens, LABELS, causal),
            network.hidden(tokens, network.encode(LABELS, causal), rows, causal),
        ]
        for network in pair
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_cache_keeps_the_shared_keys_alone(pair):
    tokens, found = tiny.tokens(), []
    for network, num_heads in zip(pair, (2, 4)):
        with torch.no_grad():
            context, cache = network.encode(LABELS, causal=True), KVCache(16)
            steps = torch.arange(16).expand(2, -1).split(4, 1)
            hidden = [network.hidden(tokens, context, rows, True, cache) for rows in steps]
        found.append(torch.cat(hidden, 1))
        assert cache.buffers[0].shape == (2, 2, num_heads, 17, 8)
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)


def test_gradients_of_shared_keys_are_the_sums_of_equal_ones(pair):
    gradients = []
    for network in pair:
        network(tiny.tokens(), LABELS).square().mean().backward()
        gradients.append(network.blocks[0].attention.qkv.weight.grad)
    shared, full = gradients
    torch.testing.assert_close(shared[:32], full[:32])
    summed = full[32:].unflatten(0, (2, 2, 2, 8)).sum(2).flatten(0, 2)  # k or v, shared, own, width
    torch.testing.assert_close(shared[32:], summed)


@pytest.mark.parametrize("masked", [None, "mask", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_keys_are_not_copied_and_give_the_same(masked, dtype):
    q, keys, values = heads(2, 6, 7, 8), heads(2, 2, 7, 8, seed=1), heads(2, 2, 7, 8, seed=2)
    q, keys, values = q.to(dtype), keys.to(dtype), values.to(dtype)
    mask = causal_mask(7, 0, q.device) if masked == "mask" else None
    own = (each.repeat_interleave(3, 1) for each in (keys, values))
    found = attend(q, keys, values, mask, masked == "causal")
    torch.testing.assert_close(found, attend(q, *own, mask, masked == "causal"))


def test_operations_of_grouped_queries(pair):
    """Two per multiply-add: the projections of keys and values are half as wide."""
    flops = []
    for network in pair:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(tiny.tokens(1), LABELS[:1])
        flops.append(counter.get_total_flops())
    blocks, tokens, width = 2, 17, 32
    assert flops[1] - flops[0] == blocks * tokens * 2 * width * width
