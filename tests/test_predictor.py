from types import SimpleNamespace

import pytest
import tiny
import torch

from MaskGIL.draw import draw_tokens
from MaskGIL.guidance import GUIDANCE, scale_at
from MaskGIL.predictor import CausalPredictor, GuidedPredictor
from MaskGIL.sampling import SamplingConfig
from Network import build_network
from Network.condition import Captions, ClassCondition
from Network.gpt import Context

NULL = 9


class Toy:
    """Hidden state (label, row, tokens' sum); a head linear or not. Counts what it is asked."""

    condition = ClassCondition(NULL, 1)
    config = SimpleNamespace(part_sizes=(3,))

    def __init__(self, head_is_linear):
        self.head_is_linear = head_is_linear
        self.encoded, self.batches = [], []

    def encode(self, labels):
        self.encoded.append(labels.tolist())
        label = labels.double()[:, None, None, None]
        return Context([label], [label])

    def hidden(self, tokens, context, rows):
        self.batches.append(len(tokens))
        assert len(context.keys[0]) == len(rows) == len(tokens)
        label = context.keys[0][:, 0, 0].expand(-1, rows.shape[1])
        total = tokens.flatten(1).sum(1, keepdim=True).expand_as(rows)
        return torch.stack([label, rows.double(), total.double()], -1).float()

    def head(self, hidden, rows):
        assert hidden.shape[:-1] == rows.shape
        return 2 * hidden if self.head_is_linear else hidden**2


TOKENS = torch.arange(12).view(3, 2, 2)
ROWS = torch.tensor([[3, 0], [1, 2], [2, 2]])
LABELS = torch.tensor([4, 0, 7])


def alone(toy, labels):
    return toy.head(toy.hidden(TOKENS, toy.encode(labels), ROWS), ROWS)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_logits_are_guided_by_the_formula(scale, guidance, linear):
    toy = Toy(linear)
    predictor = GuidedPredictor(toy, LABELS, tiny.guided(guidance, scale))
    predictor.start(TOKENS)
    conditional, null = alone(toy, LABELS), alone(toy, torch.full((3,), NULL))
    assert not torch.equal(conditional, null)  # else swapped halves would not show
    for progress in (0.0, 0.4, 1.0):
        strength = scale_at(predictor.sampling, progress)
        expected = null + strength * (conditional - null)
        torch.testing.assert_close(predictor(TOKENS, ROWS, progress), expected)


@pytest.mark.parametrize(
    ("guidance", "scale", "encoded", "batches"),
    [
        ("constant", 1.0, 1, [3, 3, 3]),
        ("linear", 1.0, 1, [3, 3, 3]),
        ("constant", 2.0, 2, [6, 6, 6]),
        ("linear", 2.0, 2, [3, 6, 6]),  # the ramp starts at 1
        ("cosine", 2.0, 2, [3, 6, 6]),
    ],
)
def test_a_scale_of_one_makes_no_null_pass(guidance, scale, encoded, batches):
    toy = Toy(True)
    predictor = GuidedPredictor(toy, LABELS, tiny.guided(guidance, scale))
    predictor.start(TOKENS)
    for progress in (0.0, 0.5, 1.0):
        predictor(TOKENS, ROWS, progress)
    assert toy.encoded == [LABELS.tolist(), [NULL] * 3][:encoded]  # once per image, not per step
    assert toy.batches == batches


def test_a_network_is_guided_alike():
    network, tokens = tiny.network().float(), tiny.tokens(3)
    labels, rows = torch.tensor([0, 2, 1]), torch.tensor([[5, 0, 15], [3, 1, 2], [9, 9, 8]])
    predictor = GuidedPredictor(network, labels, tiny.guided("constant", 4.0))
    with torch.no_grad():
        predictor.start(tokens)
        found = predictor(tokens, rows, 0.5)
        conditional = network(tokens, labels)
        null = network(tokens, torch.full((3,), network.null_label))
    every = null + 4 * (conditional - null)
    expected = torch.stack([every[image, rows[image]] for image in range(3)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


# Row after row


def plain_next(network, tokens, labels, row, scale):
    """Guided logits (B, 1, V) of a row, without cache, each branch alone, all rows at once."""
    with torch.no_grad():
        conditional = network(tokens, labels, causal=True)[:, row, None]
        null = torch.full_like(labels, network.null_label)
        null = network(tokens, null, causal=True)[:, row, None]
    return null + scale * (conditional - null)


@pytest.mark.parametrize(
    ("guidance", "scale"), [("constant", 1.0), ("constant", 2.5), ("linear", 4.0)]
)
@pytest.mark.parametrize("pieces", [[1] * 16, [3, 1, 1, 11], [16]])
def test_a_cache_answers_as_all_rows_at_once(guidance, scale, pieces):
    network, tokens = tiny.network(), tiny.tokens(3, codes=10)
    labels = torch.tensor([0, 2, 1])
    predictor = CausalPredictor(network, labels, tiny.guided(guidance, scale))
    with torch.no_grad():
        predictor.start(tokens)
        asked = 0
        for length in pieces:
            rows = torch.arange(asked, asked + length).expand(3, -1)
            asked += length
            seen = tokens.flatten(1).clone()
            seen[:, asked - 1 :] = 11  # what comes later is not read
            found = predictor(seen.view_as(tokens), rows, 0.3)
            strength = scale_at(predictor.sampling, 0.3)
            expected = plain_next(network, tokens, labels, asked - 1, strength)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)  # float64


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_condition_is_encoded_once_and_a_row_costs_one_row(scale, monkeypatch):
    network, tokens, labels = tiny.network(), tiny.tokens(3), torch.tensor([0, 2, 1])
    encoded, lengths, encode = [], [], network.encode
    monkeypatch.setattr(
        network,
        "encode",
        lambda *given, **named: encoded.append(given[0]) or encode(*given, **named),
    )
    predictor = CausalPredictor(network, labels, tiny.guided("constant", scale))
    with torch.no_grad():
        predictor.start(tokens)
        network.blocks[0].register_forward_pre_hook(
            lambda _, inputs: lengths.append(inputs[0].shape)
        )
        for row in range(16):
            predictor(tokens, torch.full((3, 1), row), row / 15)
    null = [network.null_label] * 3
    assert [each.tolist() for each in encoded] == [[0, 2, 1], null][: 1 if scale == 1 else 2]
    assert lengths == [(3 * len(encoded), 1, 32)] * 15  # row 0 follows from the condition alone


@pytest.mark.parametrize("changes", [{}, {"codebook_size": 12, "low_bits": 2}], ids=["one", "two"])
def test_no_row_waits_for_the_device(changes):
    """On the meta device nothing can be read: a number taken from a tensor would raise."""
    with torch.device("meta"):
        network = build_network(tiny.network_config(**changes)).eval()
        tokens, labels = torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
        predictor = CausalPredictor(network, labels, tiny.guided("linear", 3.0))
        rows, noise = torch.zeros(3, 1, dtype=torch.int64), [torch.rand(3, 1)] * 2
        with torch.no_grad():
            predictor.start(tokens)
            for row in range(16):
                logits = predictor(tokens, rows, row / 15)
                drawn, _ = draw_tokens(logits, noise, SamplingConfig(), 1.0)
                tokens = tokens.flatten(1).scatter(1, rows, drawn).view(3, 4, 4)
    (branch,) = predictor.branches
    assert branch.cache.rows == 16
    assert {buffer.shape for buffer in branch.cache.buffers.values()} == {(2, 6, 2, 17, 16)}


def test_an_affine_head_is_asked_once(monkeypatch):
    network, labels, counts = tiny.network(), torch.tensor([0, 2]), []
    network.output.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    predictor = CausalPredictor(network, labels, tiny.guided("constant", 3.0))
    with torch.no_grad():
        predictor.start(tiny.tokens())
        predictor(tiny.tokens(), torch.zeros(2, 1, dtype=torch.int64), 0.0)
    assert counts == [2]


# Captions


@pytest.mark.parametrize("rotary", ["grid2d", "llamagen"])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("kind", [GuidedPredictor, CausalPredictor])
def test_common_padding_is_cut_and_changes_nothing(kind, negative, rotary):
    network = tiny.network(num_classes=0, caption_width=6, caption_tokens=9, rotary=rotary)
    random = torch.Generator().manual_seed(0)

    def captions(lengths):
        rows = [torch.randn(each, 6, generator=random, dtype=torch.float64) for each in lengths]
        return Captions.padded(rows, 9)

    given, null = captions((2, 4)), captions((3, 5)) if negative else None
    predictor = kind(network, given, tiny.guided("constant", 3.0), null)
    rows, tokens = torch.zeros(2, 1, dtype=torch.int64), tiny.tokens()
    with torch.no_grad():
        predictor.start(tokens)
        assert predictor.conditional.keys[0].shape[2] == (5 if negative else 4)
        found = predictor(tokens, rows, 0.5)
        causal = kind is CausalPredictor
        null = network.condition.without(given) if null is None else null
        with_caption, without = (network(tokens, each, causal=causal) for each in (given, null))
    expected = (without + 3 * (with_caption - without))[:, :1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)  # float64


# Guidance in an interval

OPEN = {"guidance_from": 0.3, "guidance_until": 0.7}


def interval(kind=GuidedPredictor, **changes):
    network, labels = tiny.network(), torch.tensor([0, 2, 1])
    settings = SamplingConfig(guidance="constant", guidance_scale=3.0, **OPEN, **changes)
    predictor = kind(network, labels, settings)
    predictor.start(tiny.tokens(3, codes=10))
    return predictor


def passes(network):
    """What the first block is given from now on, (batch, tokens) of each pass."""
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    return seen


@torch.no_grad()
@pytest.mark.parametrize(("two_passes", "guided"), [(False, [(6, 16)]), (True, [(3, 16)] * 2)])
def test_no_null_pass_outside_the_interval(two_passes, guided):
    predictor, tokens = interval(two_passes=two_passes), tiny.tokens(3)
    rows, seen = torch.tensor([[5, 0, 15], [3, 1, 2], [9, 9, 8]]), passes(predictor.network)
    found = {progress: predictor(tokens, rows, progress) for progress in (0.2, 0.3, 0.7, 0.8)}
    assert seen == [(3, 16), *guided, *guided, (3, 16)]
    conditional = predictor.network(tokens, predictor.condition)
    null = predictor.network(tokens, torch.full((3,), predictor.network.null_label))
    for progress, logits in found.items():
        every = conditional if progress in (0.2, 0.8) else null + 3 * (conditional - null)
        expected = torch.stack([every[image, rows[image]] for image in range(3)])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)  # float64


@torch.no_grad()
@pytest.mark.parametrize("two_passes", [False, True])
def test_a_null_branch_is_there_while_the_interval_is_open(two_passes):
    """Rows 5 to 10 of 16 are guided: their progress lies in [0.3, 0.7]."""
    predictor, tokens = interval(CausalPredictor, two_passes=two_passes), tiny.tokens(3, codes=10)
    seen, caches = passes(predictor.network), {}
    for row in range(16):
        found = predictor(tokens, torch.full((3, 1), row), row / 15)
        scale = 3.0 if 5 <= row <= 10 else 1.0
        expected = plain_next(predictor.network, tokens, predictor.condition, row, scale)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)  # float64
        caches[row] = [branch.cache.buffers[0].shape[1] for branch in predictor.branches if row]
        seen[:] = [each for each in seen if each != (3, 16)]  # of `plain_next`
    alone, together = [(3, 1)], [(3, 1)] * 2 if two_passes else [(6, 1)]
    # Row 5 is predicted from tokens 0 to 4, all of which are new to the null branch
    assert seen == [*alone * 4, (3, 1), (3, 5), *together * 5, *alone * 5]
    assert (caches[4], caches[5], caches[11]) == ([3], [3, 3], [3])
    assert caches[6] == caches[10] == ([3, 3] if two_passes else [6])


@torch.no_grad()
def test_a_ramp_joins_the_null_branch_behind_its_first_row():
    network, tokens, labels = tiny.network(), tiny.tokens(3, codes=10), torch.tensor([0, 2, 1])
    predictor = CausalPredictor(network, labels, tiny.guided("linear", 3.0))
    predictor.start(tokens)
    seen = passes(network)
    for row in range(4):
        predictor(tokens, torch.full((3, 1), row), row / 15)
    assert seen == [(3, 1), (3, 1), (6, 1), (6, 1)]


# Tokens in parts


@pytest.mark.parametrize("kind", [GuidedPredictor, CausalPredictor])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_parts_are_guided_by_the_formula(kind, scale):
    network = tiny.network(codebook_size=12, low_bits=2)
    tokens, labels = tiny.tokens(codes=11), torch.tensor([0, 2])
    rows = torch.arange(6).expand(2, -1)
    predictor = kind(network, labels, tiny.guided("constant", scale))
    with torch.no_grad():
        predictor.start(tokens)
        parts = predictor(tokens, rows, 0.5)
        causal = kind is CausalPredictor
        last = slice(5, 6) if causal else slice(0, 6)
        low = torch.tensor([[3], [1]]).expand(2, last.stop - last.start)
        states = [
            network.hidden_at_once(tokens, label, causal)[:, last]
            for label in (labels, torch.full_like(labels, network.null_label))
        ]
        for earlier in ([], [low]):
            conditional, null = (network.output.part_logits(x, earlier) for x in states)
            expected = null + scale * (conditional - null)
            torch.testing.assert_close(parts.next(earlier), expected, rtol=0, atol=1e-11)


def test_as_many_labels_as_images():
    with pytest.raises(AssertionError):
        GuidedPredictor(Toy(True), LABELS, tiny.guided("linear", 2.0)).start(TOKENS[:2])
