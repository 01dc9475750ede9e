"""Expected numbers: a plain formulation with one head at a time; those of LlamaGen's own classes
are in test_generator_files.py."""

import math
from itertools import product

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from Network import build_network
from Network.attention import attend
from Network.config import NetworkConfig, UserError
from Network.context import Context, KVCache

NORMS = [
    {"norm": norm, "qk_norm": qk_norm, "embed_norm": embed_norm}
    for norm, qk_norm, embed_norm in product(["pre", "post", "sandwich"], [0, 1], [0, 1])
]
VARIANTS = [
    {"learned_positions": True},
    {"heads": 4, "kv_heads": 2},
    {"null_condition": "mask_token"},
    {"size_condition": True},
]
EXACT = {"rtol": 0, "atol": 1e-11}  # float64
LABELS = torch.tensor([1, 3])


def rows_of(*rows):
    return torch.tensor(rows)


# Architecture


def test_the_head_has_no_mask_token():
    network = tiny.network()
    assert network.mask_id == 11  # outside the codes 0 .. 10
    assert network(tiny.tokens(), LABELS).shape == (2, 16, 11)
    assert network.token_embedding.num_embeddings == 12


def test_a_fresh_network_knows_nothing():
    network = build_network(tiny.network_config())
    assert not network(tiny.tokens(), LABELS).any()
    assert [name for name, _ in network.named_parameters() if name.endswith("bias")] == []


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("changes", [*NORMS, *VARIANTS])
def test_a_gradient_reaches_every_parameter(changes, causal):
    network = tiny.network(**changes)
    target = torch.arange(32).view(2, 16) % 11
    logits = network(tiny.tokens(), LABELS, causal=causal)
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def branch_sizes(config):
    """Root mean squares of all branch outputs of a fresh network, of tokens and of condition."""
    torch.manual_seed(0)
    network, sizes = build_network(config), []
    for block in network.blocks:
        for norm in (block.attention_norm_out, block.feed_forward_norm_out):
            norm.register_forward_hook(lambda _, __, out: sizes.append(out.square().mean().sqrt()))
    tokens = tiny.tokens(2, config.grid, config.codebook_size)
    network.hidden(tokens, network.encode(LABELS))
    assert len(sizes) == 2 * 2 * config.depth  # condition, then tokens
    return torch.stack(sizes).detach()


@pytest.mark.parametrize(
    "changes", [{"width": 192, "heads": 6, "depth": 6}, {"width": 768, "heads": 12}]
)
def test_branches_of_a_fresh_network_are_of_size_one(changes):
    """With post-norm a branch far below eps stays below: then it would learn nothing."""
    sizes = branch_sizes(tiny.network_config(grid=(8, 8), codebook_size=512, **changes))
    assert (sizes > 0.5).all()
    assert (sizes < 2).all()


def test_without_embed_norm_the_first_branches_are_too_small():
    assert branch_sizes(tiny.network_config(grid=(8, 8), embed_norm=False))[:4].min() < 0.5


# The plain formulation


def plain_norm(norm, x):
    if isinstance(norm, nn.Identity):
        return x
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight


def plain_rotation(x, row, column, factor=1.0):
    """One head of one token (head_dim,) turned by its row and column, pair by pair."""
    pairs = torch.view_as_complex(x.view(-1, 2))
    quarter = len(pairs) // 2
    frequency = 10000.0 ** -(torch.arange(quarter).double() / quarter)
    angle = torch.cat([row * frequency, column * frequency])
    return factor * torch.view_as_real(pairs * torch.exp(1j * angle)).flatten()


def plain_attention(attention, x, places, allowed):
    """Head by head over condition and tokens at once; places: (row, column, factor) of each."""
    heads = (x @ attention.qkv.weight.T).split(attention.head_dim, -1)  # of q, of k, of v
    num_queries = x.shape[-1] // attention.head_dim
    num_keys = (len(heads) - num_queries) // 2
    outputs = []
    for head in range(num_queries):
        shared = num_queries + head // (num_queries // num_keys)
        queries = plain_norm(attention.q_norm, heads[head])
        keys, values = plain_norm(attention.k_norm, heads[shared]), heads[shared + num_keys]
        queries = torch.stack([plain_rotation(x, *place) for x, place in zip(queries, places)])
        keys = torch.stack([plain_rotation(x, *place) for x, place in zip(keys, places)])
        scores = queries @ keys.T / attention.head_dim**0.5
        outputs.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ values)
    return torch.cat(outputs, -1) @ attention.out.weight.T


def plain_logits(network, tokens, label, causal):
    """Logits (N, V) of one image (h, w), condition and tokens as one sequence."""
    factor = 0.0 if network.config.rotary == "llamagen" else 1.0
    h, w = tokens.shape
    places = [(0, 0, factor), *((row, column, 1.0) for row in range(h) for column in range(w))]
    x = network.token_embedding.weight[F.pad(tokens.flatten(), (1, 0), value=network.mask_id)]
    if label < len(network.condition.table.weight):  # else the mask token is the null condition
        x[0] = network.condition.table.weight[label]
    if network.config.learned_positions:
        x[1:] += network.position_embedding.weight
    if network.config.size_condition:
        angles = [2.0 ** torch.arange(-3, 5) * math.log2(side) for side in (h, w)]
        waves = torch.cat([wave for each in angles for wave in (each.sin(), each.cos())])
        x[1:] += network.size_condition.weight @ waves.double()
    x = plain_norm(network.embed_norm, x)
    allowed = torch.ones(len(x), len(x), dtype=torch.bool)
    allowed[0, 1:] = False
    allowed = allowed.tril() if causal else allowed
    for block in network.blocks:
        branch = plain_norm(block.attention_norm_in, x)
        branch = plain_attention(block.attention, branch, places, allowed)
        x = x + plain_norm(block.attention_norm_out, branch)
        part = plain_norm(block.feed_forward_norm_in, x)
        feed = block.feed_forward
        part = F.silu(part @ feed.gate.weight.T) * (part @ feed.up.weight.T)
        x = x + plain_norm(block.feed_forward_norm_out, part @ feed.down.weight.T)
    x = x[:-1] if causal else x[1:]
    return plain_norm(network.norm, x) @ network.output.weight.T


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("rotary", ["grid2d", "llamagen"])
@pytest.mark.parametrize("changes", [*NORMS, *VARIANTS])
def test_equals_the_plain_formulation(changes, rotary, causal):
    """So also: the condition's part, computed once, equals attention over one joint sequence."""
    network = tiny.network(rotary=rotary, grid=(2, 3), **changes)
    tokens = tiny.tokens(grid=(2, 3))
    with torch.no_grad():
        hidden = network.hidden(tokens, network.encode(LABELS, causal), causal=causal)
        found = network(tokens, LABELS, causal=causal)
        torch.testing.assert_close(network.head(hidden), found, **EXACT)
        for image, label, logits in zip(tokens, LABELS, found):
            expected = plain_logits(network, image, label, causal)
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # float32 angles


@pytest.mark.parametrize("rotary", ["grid2d", "llamagen"])
@pytest.mark.parametrize("changes", [*NORMS, *VARIANTS])
@pytest.mark.parametrize("grid", [(2, 3), (1, 1)])
def test_one_pass_in_causal_order_is_encode_and_hidden(changes, rotary, grid):
    network, tokens = tiny.network(rotary=rotary, grid=grid, **changes), tiny.tokens(grid=grid)
    with torch.no_grad():
        found = network.hidden_at_once(tokens, LABELS, causal=True)
        expected = network.hidden(tokens, network.encode(LABELS, True), causal=True)
    torch.testing.assert_close(found, expected, **EXACT)


def test_one_pass_in_causal_order_needs_no_mask(monkeypatch):
    """So a fused kernel may skip what lies above the diagonal."""
    seen, attention = [], F.scaled_dot_product_attention

    def spy(*inputs, **how):
        seen.append((how["attn_mask"], how["is_causal"]))
        return attention(*inputs, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    tiny.network().hidden_at_once(tiny.tokens(), LABELS, causal=True)
    assert seen == [(None, True)] * 2


# Who sees whom


def changed_logits(network, causal):
    """[j, i]: whether the logits of token i change when token j does."""
    with torch.no_grad():
        tokens = tiny.tokens(1)
        logits = network(tokens, LABELS[:1], causal=causal)
        changes = []
        for j in range(16):
            other = tokens.flatten(1).clone()
            other[0, j] = (other[0, j] + 1) % 12
            changes.append((network(other, LABELS[:1], causal=causal) - logits).abs().amax(-1)[0])
    return torch.stack(changes) > 1e-9


def test_attention_to_a_single_key_is_its_value():
    """As PyTorch computes it, from a softmax over one score; that score gets no gradient."""
    torch.manual_seed(0)
    shapes = (2, 3, 5, 4), (2, 3, 1, 4), (2, 3, 1, 4)
    q, key, value = (torch.randn(shape, dtype=torch.double).requires_grad_() for shape in shapes)
    found, expected = attend(q, key, value, None), F.scaled_dot_product_attention(q, key, value)
    torch.testing.assert_close(found, expected, **EXACT)
    along = torch.randn_like(expected)
    slopes = torch.autograd.grad(expected, [q, key, value], along)
    assert max(slope.abs().max().item() for slope in slopes[:2]) < 1e-12
    torch.testing.assert_close(torch.autograd.grad(found, value, along)[0], slopes[2], **EXACT)


def test_masked_tokens_see_every_token():
    assert changed_logits(tiny.network(), causal=False).all()


def test_causal_tokens_see_exactly_the_earlier_ones():
    expected = torch.ones(16, 16, dtype=torch.bool).triu(1)  # token j reaches those behind it
    assert torch.equal(changed_logits(tiny.network(), causal=True), expected)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_every_label_matters_to_every_token(causal):
    network = tiny.network()
    with torch.no_grad():
        logits = network(tiny.tokens(1).expand(4, -1, -1), torch.arange(4), causal=causal)
    for first, second in product(range(4), range(4)):
        if first != second:
            assert ((logits[first] - logits[second]).abs().amax(-1) > 1e-6).all()


def test_without_classes_the_null_label_remains():
    network = tiny.network(num_classes=0)
    assert network.null_label == 0
    assert network(tiny.tokens(), torch.zeros(2, dtype=torch.int64)).shape == (2, 16, 11)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_the_batch_does_not_matter(causal):
    network, tokens, labels = tiny.network(), tiny.tokens(5), torch.tensor([0, 3, 1, 1, 2])
    with torch.no_grad():
        together = network(tokens, labels, causal=causal)
        for index in range(5):
            alone = network(tokens[index, None], labels[index, None], causal=causal)
            torch.testing.assert_close(together[index, None], alone, **EXACT)
        order = torch.tensor([4, 1, 0, 3, 2])
        mixed = network(tokens[order], labels[order], causal=causal)
    torch.testing.assert_close(together[order], mixed, **EXACT)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 2), (6, 9)])
@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_any_grid(grid, causal):
    tokens = tiny.tokens(2, grid)
    with torch.no_grad():
        found = tiny.network()(tokens, LABELS, causal=causal)
        made_for_it = tiny.network(grid=grid)
        assert torch.equal(found, made_for_it(tokens.flatten(1), LABELS, causal=causal))
        assert found.shape == (2, grid[0] * grid[1], 11)
        if min(grid) > 1:
            turned = made_for_it(tokens.view(2, grid[1], grid[0]), LABELS, causal=causal)
            assert (found - turned).abs().max() > 1e-3


def test_learned_positions_know_one_grid():
    network = tiny.network(learned_positions=True)
    with pytest.raises(ValueError, match=r"^A network with learned_positions .* 4x4, not 2x3"):
        network(tiny.tokens(grid=(2, 3)), LABELS)


def test_a_sequence_that_does_not_fill_the_grid():
    with pytest.raises(ValueError, match=r"^15 tokens do not fill the grid 4x4 of network.grid"):
        tiny.network()(torch.zeros(2, 15, dtype=torch.int64), LABELS)


# Rows, contexts, caches


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("norm", ["pre", "post", "sandwich"])
def test_rows_are_those_of_all(norm, causal):
    network, tokens = tiny.network(norm=norm), tiny.tokens()
    rows = rows_of([3, 0, 15, 15, 7], [9, 14, 2, 1, 0])  # any order, twice the same
    with torch.no_grad():
        context = network.encode(LABELS, causal)
        every = network.hidden(tokens, context, causal=causal)
        some = network.hidden(tokens, context, rows, causal=causal)
        torch.testing.assert_close(
            some, torch.stack([every[b, rows[b]] for b in range(2)]), **EXACT
        )
        logits = network(tokens, LABELS, causal=causal)
    torch.testing.assert_close(network.head(every), logits, **EXACT)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_a_context_serves_every_step_and_joins(causal):
    network = tiny.network()
    with torch.no_grad():
        separate = [network.encode(label[None], causal) for label in LABELS]
        joined = Context.cat(separate)
        for seed in range(3):
            tokens = tiny.tokens(seed=seed)
            found = network.head(network.hidden(tokens, joined, causal=causal))
            torch.testing.assert_close(found, network(tokens, LABELS, causal=causal), **EXACT)


@pytest.mark.parametrize("chunks", [[1] * 15, [5] * 3, [15], [1, 4, 2, 8], [14, 1]])
@pytest.mark.parametrize("changes", [*NORMS[::3], *VARIANTS])
def test_a_cache_changes_nothing(changes, chunks):
    """Tokens behind the chunk are not known yet: what stands there must not matter."""
    network, tokens = tiny.network(grid=(3, 5), **changes), tiny.tokens(grid=(3, 5))
    assert sum(chunks) == 15
    with torch.no_grad():
        context, cache = network.encode(LABELS, causal=True), KVCache(15)
        expected = network.hidden(tokens, context, causal=True)
        known = torch.full_like(tokens, network.mask_id).flatten(1)
        start = 0
        for length in chunks:
            rows = torch.arange(start, start + length).expand(2, -1)
            known[:, :start] = tokens.flatten(1)[:, :start]
            given = known.clone()
            given[:, start : start + length - 1] = tokens.flatten(1)[:, start : start + length - 1]
            found = network.hidden(given.view_as(tokens), context, rows, causal=True, cache=cache)
            torch.testing.assert_close(found, expected[:, start : start + length], **EXACT)
            start += length
            assert cache.length == start - 1  # the last token of a chunk is not in it yet


def test_a_cache_takes_a_whole_sequence():
    network, tokens, cache = tiny.network(), tiny.tokens(), KVCache(16)
    with torch.no_grad():
        context = network.encode(LABELS, causal=True)
        found = network.hidden(tokens, context, causal=True, cache=cache)
        torch.testing.assert_close(found, network.hidden(tokens, context, causal=True), **EXACT)
    assert cache.length == 15


# States and sentences


def test_inference_leaves_training_possible():
    """Tables that are remembered from `inference_mode` must not reach autograd."""
    network = tiny.network(grid=(3, 7))  # a grid of its own: not yet remembered
    with torch.inference_mode():
        network(tiny.tokens(grid=(3, 7)), LABELS)
    network(tiny.tokens(grid=(3, 7)), LABELS).sum().backward()
    assert network.blocks[0].attention.qkv.weight.grad.any()


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_a_compiled_network_holds_its_rotary_table(causal):
    """A constant of the graph, not computed anew in each step; real, as inductor's code is."""
    network, tokens, graphs = tiny.network(), tiny.tokens(), []
    compiled = torch.compile(
        network.hidden_at_once, backend=lambda graph, _: graphs.append(graph) or graph
    )
    found = compiled(tokens, LABELS, causal)
    # The complex rotation is compiled as real arithmetic
    torch.testing.assert_close(found, network.hidden_at_once(tokens, LABELS, causal))
    nodes = [node for graph in graphs for node in graph.graph.nodes]
    called = {str(node.target) for node in nodes}
    made = [node.meta.get("example_value") for node in nodes]
    assert len(graphs) == 1
    assert not [value for value in made if isinstance(value, torch.Tensor) and value.is_complex()]
    assert not [name for name in called if "polar" in name or "arange" in name]


def test_dropout_acts_in_training_only():
    network, tokens = tiny.network(dropout=0.5), tiny.tokens()
    assert torch.equal(network(tokens, LABELS), tiny.network()(tokens, LABELS))
    network.train()
    assert not torch.equal(network(tokens, LABELS), network(tokens, LABELS))


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("norms", NORMS)
def test_runs_in_bfloat16(norms, causal):
    network, tokens = tiny.network(**norms).float(), tiny.tokens()
    with torch.no_grad():
        exact = network(tokens, LABELS, causal=causal)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(tokens, LABELS, causal=causal).float()
    assert (found - exact).norm() / exact.norm() < 0.05  # 8 bits, two blocks
    assert not torch.equal(found, exact)


def test_sentences_for_heads_and_the_null_condition():
    with pytest.raises(UserError, match=r"^network.heads=5 must divide network.width=192 into"):
        build_network(NetworkConfig(heads=5))
    with pytest.raises(UserError, match=r"^network.heads=96 must divide .* a multiple of 4.$"):
        build_network(NetworkConfig(heads=96))
    for kv_heads in (4, -1, 12):
        with pytest.raises(UserError, match=rf"^network.kv_heads={kv_heads} must divide network.h"):
            NetworkConfig(heads=6, kv_heads=kv_heads)
    with pytest.raises(UserError, match=r"^network.kv_heads=2 has no effect on network.kind=vit"):
        NetworkConfig(kind="vit", kv_heads=2)
    with pytest.raises(UserError, match=r"^network.null_condition=mask_token takes the place of t"):
        NetworkConfig(null_condition="mask_token", num_classes=0)


def test_the_base_of_the_rotary_frequencies():
    """It reaches the tables of every block: another one computes something else."""
    tokens = tiny.tokens()
    logits = [tiny.network(rotary_base=base)(tokens, LABELS) for base in (10000.0, 100.0)]
    assert torch.equal(logits[0], tiny.network()(tokens, LABELS))
    assert not torch.allclose(*logits)
    with pytest.raises(UserError, match=r"^network.rotary_base must be above 1, not 1.$"):
        NetworkConfig(rotary_base=1.0)
    with pytest.raises(UserError, match=r"^network.rotary_base=100 has no effect on network.rotar"):
        NetworkConfig(rotary="published", rotary_base=100.0)
    with pytest.raises(UserError, match=r"^network.rotary_base=100.0 has no effect on network.ki"):
        NetworkConfig(kind="vit", rotary_base=100.0)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_cuda_computes_the_same(causal):
    network, tokens, found = tiny.network().float(), tiny.tokens(), {}
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        logits = network(tokens.to(device), LABELS.to(device), causal=causal)
        logits.square().mean().backward()
        gradients = [parameter.grad.cpu() for parameter in network.parameters()]
        found[device] = [logits.detach().cpu(), *gradients]
    for cpu, cuda in zip(*found.values()):
        torch.testing.assert_close(cuda, cpu, rtol=1e-4, atol=1e-5)
