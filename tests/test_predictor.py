from types import SimpleNamespace

import pytest
import tiny
import torch

from MaskGIL.guidance import GUIDANCE
from MaskGIL.predictor import GuidedPredictor
from Network.config import UserError
from Network.gpt import Context

NULL = 9


class Toy:
    """Hidden state (label, row, tokens' sum); a head linear or not. Counts what it is asked."""

    null_label = NULL
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
    predictor = GuidedPredictor(toy, LABELS, guidance, scale)
    predictor.start(TOKENS)
    conditional, null = alone(toy, LABELS), alone(toy, torch.full((3,), NULL))
    assert not torch.equal(conditional, null)  # else swapped halves would not show
    for progress in (0.0, 0.4, 1.0):
        strength = GUIDANCE[guidance](scale, progress)
        expected = null + strength * (conditional - null)
        torch.testing.assert_close(predictor(TOKENS, ROWS, progress), expected)


@pytest.mark.parametrize(
    ("guidance", "scale", "encoded", "batches"),
    [
        ("constant", 1.0, 1, [3, 3, 3]),
        ("linear", 1.0, 1, [3, 3, 3]),
        ("constant", 2.0, 2, [6, 6, 6]),
        ("linear", 2.0, 2, [3, 6, 6]),  # the ramp starts at 1
    ],
)
def test_a_scale_of_one_makes_no_null_pass(guidance, scale, encoded, batches):
    toy = Toy(True)
    predictor = GuidedPredictor(toy, LABELS, guidance, scale)
    predictor.start(TOKENS)
    for progress in (0.0, 0.5, 1.0):
        predictor(TOKENS, ROWS, progress)
    assert toy.encoded == [LABELS.tolist(), [NULL] * 3][:encoded]  # once per image, not per step
    assert toy.batches == batches


def test_a_network_is_guided_alike():
    network, tokens = tiny.network().float(), tiny.tokens(3)
    labels, rows = torch.tensor([0, 2, 1]), torch.tensor([[5, 0, 15], [3, 1, 2], [9, 9, 8]])
    predictor = GuidedPredictor(network, labels, "constant", 4.0)
    with torch.no_grad():
        predictor.start(tokens)
        found = predictor(tokens, rows, 0.5)
        conditional = network(tokens, labels)
        null = network(tokens, torch.full((3,), network.null_label))
    every = null + 4 * (conditional - null)
    expected = torch.stack([every[image, rows[image]] for image in range(3)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_unknown_guidance():
    with pytest.raises(UserError, match=r"^Unknown guidance 'ramp'. Known: constant, linear.$"):
        GuidedPredictor(Toy(True), LABELS, "ramp", 2.0)


def test_as_many_labels_as_images():
    with pytest.raises(AssertionError):
        GuidedPredictor(Toy(True), LABELS, "linear", 2.0).start(TOKENS[:2])
