from dataclasses import replace

import pytest
import tiny
import torch

from MaskGIL.config import from_dict, to_dict
from MaskGIL.initial import CLASSES
from Network.condition import CaptionCondition, Captions, ClassCondition, cut_padding
from Network.config import NetworkConfig, UserError
from Network.context import Context


def test_a_label_is_its_row_of_the_table():
    condition = ClassCondition(5, 8)
    labels = torch.tensor([4, 0, 5, 4])
    tokens = condition(labels)
    assert tokens.shape == (4, condition.num_tokens, 8)
    assert torch.equal(tokens[:, 0], condition.table.weight[labels])


def test_the_null_condition_is_one_more_row():
    condition = ClassCondition(5, 8)
    assert condition.null == 5
    assert len(condition.table.weight) == 6


def test_shares_mix_the_rows_of_the_table():
    condition = ClassCondition(5, 8)
    shares = torch.eye(6)[[4, 0, 5]]
    rows = condition.table.weight
    for kind in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
            assert torch.equal(condition(shares), condition(torch.tensor([4, 0, 5])))
    shares[0, 4], shares[0, 1] = 0.25, 0.75
    expected = 0.25 * rows[4] + 0.75 * rows[1]
    torch.testing.assert_close(condition(shares)[0, 0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"null_condition": "mask_token"},
        {"rotary": "published"},
        {"kind": "vit"},
        {"kind": "halton"},
    ],
)
def test_every_network_takes_shares(changes):
    ours, tokens = tiny.network(**changes), tiny.tokens()
    labels, shares = torch.tensor([2, 3]), torch.eye(4).double()[[2, 3]]
    with torch.no_grad():
        expected = ours(tokens, labels)
        torch.testing.assert_close(ours(tokens, shares), expected, rtol=0, atol=1e-11)
        mixed = ours(tokens, shares.mean(0, keepdim=True).expand(2, -1))
    assert not torch.allclose(mixed, expected)


def test_features_are_padded_in_front():
    features = [torch.ones(2, 3), torch.ones(0, 3), torch.ones(4, 3)]
    padded = Captions.padded(features, 4)
    assert padded.mask.tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
    assert torch.equal(padded.features, (~padded.mask)[..., None].float().expand(3, 4, 3))


def test_features_of_a_cache_are_taken_in_bf16():
    condition = CaptionCondition(6, 8)
    features = torch.randn(2, 5, 6).bfloat16()
    assert torch.equal(condition(Captions(features)), condition(Captions(features.float())))


def test_what_stands_for_the_null_condition_takes_the_place_of_its_row():
    condition = ClassCondition(5, 8, null_row=False)
    assert condition.null == len(condition.table.weight) == 5
    null, labels = torch.randn(1, 8), torch.tensor([5, 0, 5])
    expected = torch.stack([null[0], condition.table.weight[0], null[0]])
    assert torch.equal(condition(labels, null)[:, 0], expected)
    assert torch.equal(condition(torch.eye(6)[labels], null)[:, 0], expected)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("low_bits", [0, 1])
def test_the_mask_token_as_null_is_a_null_row_equal_to_its_embedding(low_bits, causal):
    changes = {"codebook_size": 12, "low_bits": low_bits}
    shared, own = tiny.network(null_condition="mask_token", **changes), tiny.network(**changes)
    embedding = shared.token_embedding
    mask = embedding.mask.weight if low_bits else embedding.weight[shared.mask_id, None]
    state = shared.state_dict()
    own.load_state_dict(state | {CLASSES: torch.cat([state[CLASSES], mask.detach()])})
    assert shared.null_label == own.null_label == 3
    tokens, labels = tiny.tokens(4, codes=12), torch.arange(4)
    for way in ("hidden_at_once", "forward"):
        found, expected = (getattr(each, way)(tokens, labels, causal) for each in (shared, own))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_where_the_null_condition_comes_from_is_part_of_the_weights():
    config = tiny.network_config(null_condition="mask_token", kv_heads=1)
    assert from_dict(NetworkConfig, to_dict(config)) == config
    before = {k: v for k, v in to_dict(config).items() if k not in ("null_condition", "kv_heads")}
    assert from_dict(NetworkConfig, before) == tiny.network_config()


def test_without_classes_only_the_null_condition_is_left():
    condition = ClassCondition(0, 8)
    assert condition.null == 0
    assert condition(torch.tensor([0, 0])).shape == (2, 1, 8)


# Captions


def captions(batch=2, tokens=5, padding=(0, 3), seed=0):
    """Random features, image i padded in front by `padding[i]`."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, tokens, 6, generator=generator, dtype=torch.float64)
    mask = torch.arange(tokens) < torch.tensor(padding)[:, None]
    return Captions(features, mask)


def network(**changes):
    return tiny.network(num_classes=0, caption_width=6, **changes)


def test_features_become_tokens():
    condition, given = network().condition, captions()
    hidden = given.features @ condition.up.weight.T
    inner = (2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)  # GELU, tanh approximation
    expected = 0.5 * hidden * (1 + inner.tanh()) @ condition.down.weight.T
    torch.testing.assert_close(condition(given), expected)


def test_places_are_counted_from_the_first_token_of_the_caption():
    condition, given = network(caption_tokens=7, caption_places=True).condition, captions()
    plain = network(caption_tokens=7).condition
    plain.load_state_dict(condition.state_dict(), strict=False)
    added = condition(given) - plain(given)
    places = condition.place_embedding.weight
    torch.testing.assert_close(added[0], places[:5])
    torch.testing.assert_close(added[1, 3:], places[:2])  # behind three of padding
    unpadded = Captions(given.features)
    torch.testing.assert_close((condition(unpadded) - plain(unpadded))[1], places[:5])
    cut, _ = cut_padding(given[1:], given[1:])
    torch.testing.assert_close(condition(cut), condition(given)[1:, 3:])


def test_what_asks_for_nothing():
    labels, given = ClassCondition(3, 8), captions()
    found = [
        labels.is_null(torch.tensor(each)) for each in ([3, 3], [3, 0], [[0.0, 0.0, 0.0, 1.0]])
    ]
    assert found == [True, False, False]
    condition = network().condition
    dropped = [torch.tensor(each) for each in ([True, True], [True, False])]
    found = [condition.is_null(replace(given, dropped=each)) for each in (*dropped, None)]
    assert found == [True, False, False]


def test_the_null_caption_keeps_the_mask():
    condition, given = network().condition, captions(tokens=120)
    null = condition.without(given)
    expected = condition(Captions(condition.null_features.expand(2, -1, -1)))
    assert torch.equal(condition(null), expected)
    assert null.mask is given.mask


def test_each_network_puts_its_own_null_caption_where_one_is_dropped():
    """Its last features, of captions that are shorter than the network has learned."""
    given = captions(3, padding=(0, 3, 1))
    some = replace(given, dropped=torch.tensor([False, True, False]))
    for caption_tokens in (5, 9):
        condition = network(caption_tokens=caption_tokens).condition
        plain, found = condition(given), condition(some)
        assert torch.equal(found[[0, 2]], plain[[0, 2]])
        # Products of fewer rows may be rounded otherwise
        null = condition(Captions(condition.null_features[None, -5:]))[0]
        torch.testing.assert_close(found[1], null, rtol=1e-12, atol=1e-12)
        cut, _ = cut_padding(some[1:], some[1:])
        torch.testing.assert_close(condition(cut), found[1:, 1:], rtol=1e-12, atol=1e-12)


def test_captions_are_cut_to_some_images():
    given = captions(3, padding=(0, 3, 1))
    rows = torch.tensor([2, 0])
    assert [len(given), len(given[1:]), len(given[rows])] == [3, 2, 2]
    assert torch.equal(given[rows].features, given.features[rows])
    assert torch.equal(given[rows].mask, given.mask[rows])
    assert Captions(given.features)[rows].mask is None
    dropped = torch.tensor([True, False, False])
    assert replace(given, dropped=dropped)[rows].dropped.tolist() == [False, True]
    moved = given.to("meta")
    assert moved.features.device == moved.mask.device == torch.device("meta")


def test_padding_is_cut_as_far_as_all_captions_have_it():
    one, other = captions(padding=(3, 2)), captions(padding=(4, 3), seed=1)
    cut, beside = cut_padding(one, other)
    assert torch.equal(cut.features, one.features[:, 2:])
    assert torch.equal(beside.mask, other.mask[:, 2:])
    assert cut_padding(beside, cut)[0].features.shape == (2, 3, 6)  # no more is left to cut
    empty = captions(padding=(5, 5))
    assert cut_padding(empty, empty)[0].features.shape == (2, 1, 6)  # a token must be left
    bare = Captions(one.features)
    assert cut_padding(bare, other) == (bare, other)


def test_captions_are_as_long_as_the_network_says():
    assert network().condition.num_tokens == 120
    short = network(caption_tokens=5)
    assert short.condition.null_features.shape == (5, 6)
    with pytest.raises(UserError, match=r"^network.caption_tokens=5 has no effect without captio"):
        tiny.network_config(caption_tokens=5)
    for key in ("caption_places", "caption_whitening"):
        with pytest.raises(UserError, match=rf"^network.{key}=true has no effect without captions"):
            tiny.network_config(**{key: True})
    with pytest.raises(UserError, match=r"^network.caption_tokens must be at least 1, not 0"):
        tiny.network_config(num_classes=0, caption_width=6, caption_tokens=0)


def test_the_null_label_takes_the_place_of_labels_and_of_shares():
    condition = ClassCondition(5, 8)
    for labels in (torch.tensor([4, 5]), torch.eye(6)[:2]):
        assert condition.without(labels).tolist() == [5, 5]


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_padding_does_not_matter(causal):
    """The same caption, once without padding: what stands there is seen by nobody else."""
    ours, tokens = network(), tiny.tokens()
    given = captions()
    with torch.no_grad():
        found = ours(tokens, given, causal=causal)
        other = Captions(given.features + 9 * given.mask[..., None], given.mask)
        torch.testing.assert_close(ours(tokens, other, causal=causal), found, rtol=0, atol=1e-11)
        bare = Captions(given.features[1:, 3:])
        expected = ours(tokens[1:], bare, causal=causal)
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_padding_that_sees_nothing_else_sees_itself(causal):
    """Else its softmax, over nothing, would be no number; here also by the way of bfloat16."""
    ours, given = network().float(), captions(padding=(1, 4))
    given = Captions(given.features.float(), given.mask)
    for kind in (torch.bfloat16, torch.float32):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
            context = ours.encode(given, causal)
            logits = ours(tiny.tokens(), given, causal=causal)
        assert all(values.isfinite().all() for values in context.values)
        assert logits.isfinite().all()


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
def test_captions_train(causal):
    """Through the mask of padding and without it, which are two ways in masked order."""
    for given in (captions(), Captions(captions().features)):
        ours = network()
        ours(tiny.tokens(), given, causal=causal).square().sum().backward()
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_contexts_of_captions_join():
    ours, tokens, given = network(), tiny.tokens(), captions()
    with torch.no_grad():
        parts = [Captions(given.features[i, None], given.mask[i, None]) for i in range(2)]
        joined = Context.cat([ours.encode(part, True) for part in parts])
        found = ours.head(ours.hidden(tokens, joined, causal=True))
        torch.testing.assert_close(found, ours(tokens, given, causal=True), rtol=0, atol=1e-11)


def test_labels_are_no_captions():
    with pytest.raises(UserError) as error:
        network()(tiny.tokens(), torch.tensor([0, 0]))
    assert str(error.value) == (
        "This generator takes captions (features of a text encoder), not class labels; use the "
        "weights of a class-conditional one."
    )


@pytest.mark.parametrize("changes", [{"num_classes": 3}, {"rotary": "published"}])
def test_captions_take_the_place_of_classes(changes):
    settings = {"caption_width": 6, "num_classes": 0, **changes}
    with pytest.raises(UserError, match=r"^network.caption_width=6 takes captions in the place of"):
        NetworkConfig(**settings)
