import math

import numpy as np
import pytest
import tiny
import torch

from MaskGIL.masking import draw_mask, hidden_counts, van_der_corput
from Network.condition import Captions
from Trainer.objective import RowLogits
from Trainer.validation import (
    BITS,
    QUARTERS,
    VALIDATIONS,
    bits_masked,
    bits_next,
    block_sizes,
    validate_masked,
    validate_next,
)

COUNT = 24
LABELS = torch.arange(COUNT) % 4
TOKENS = tiny.tokens(COUNT, codes=10)
SETTINGS = {"schedule": "arccos", "chunk": 7}


@pytest.fixture
def network():
    return tiny.network()


@torch.no_grad()
def rows_by_image(network):
    """For each image its share of hidden tokens, and losses and right guesses at these."""
    counts = hidden_counts("arccos", COUNT, 16, 0, 0)
    for image, count in enumerate(counts.tolist()):
        mask = draw_mask(torch.tensor([count]), 0, torch.tensor([image]), 16)[0]
        tokens = TOKENS[image].flatten()
        masked = tokens.masked_fill(mask, 11).view(1, 4, 4)
        logits = network(masked, LABELS[image, None])[0, mask]
        losses = -logits.log_softmax(-1).gather(1, tokens[mask, None])[:, 0]
        yield count / 16, losses, (logits.argmax(-1) == tokens[mask]).double()


def mean(pieces):
    return torch.cat(list(pieces)).mean().item()


def test_hidden_tokens_are_scored_in_all_and_by_quarters(network):
    with torch.no_grad():
        found = validate_masked(RowLogits(network), [(TOKENS, LABELS)], **SETTINGS)
    rows = list(rows_by_image(network))
    assert found.pop("loss") == pytest.approx(mean(loss for _, loss, _ in rows))
    assert found.pop("acc") == pytest.approx(mean(right for _, _, right in rows))
    for quarter, name in enumerate(QUARTERS):
        inside = [row for row in rows if quarter / 4 < row[0] <= (quarter + 1) / 4]
        assert found.pop(f"loss {name}") == pytest.approx(mean(loss for _, loss, _ in inside))
        assert found.pop(f"acc {name}") == pytest.approx(mean(right for _, _, right in inside))
    assert found == {}


def test_a_quarter_without_images_is_left_out(network):
    with torch.no_grad():
        found = validate_masked(RowLogits(network), [(TOKENS[:1], LABELS[:1])], **SETTINGS)
    hidden = hidden_counts("arccos", 1, 16, 0, 0)[0] / 16
    (name,) = [name for q, name in enumerate(QUARTERS) if q / 4 < hidden <= (q + 1) / 4]
    assert set(found) == {"loss", "acc", f"loss {name}", f"acc {name}"}


def test_next_tokens_are_scored(network):
    with torch.no_grad():
        found = validate_next(RowLogits(network), [(TOKENS, LABELS)], **SETTINGS)
        logits = network(TOKENS, LABELS, causal=True)
    targets = TOKENS.flatten(1)
    losses = -logits.log_softmax(-1).gather(2, targets[..., None])
    right = (logits.argmax(-1) == targets).double()
    expected = {"ar_loss": losses.mean().item(), "ar_acc": right.mean().item()}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("mode", VALIDATIONS)
def test_groups_of_several_shapes_count_by_their_tokens(mode, network):
    """A loss of all is the mean over tokens, so the larger grid weighs more."""
    wide = tiny.tokens(6, codes=10).repeat(1, 1, 2)  # (6, 4, 8)
    groups, prefix = [(TOKENS, LABELS), (wide, LABELS[:6])], "ar_" if mode == "ar" else ""
    with torch.no_grad():
        ways = [VALIDATIONS[mode](RowLogits(network), [group], **SETTINGS) for group in groups]
        both = VALIDATIONS[mode](RowLogits(network), groups, **SETTINGS)
    counts = [
        tokens.numel()
        if mode == "ar"
        else hidden_counts("arccos", len(tokens), tokens[0].numel(), 0, 0).sum()
        for tokens, _ in groups
    ]
    for name in ("loss", "acc"):
        values = [way[prefix + name] for way in ways]
        assert both[prefix + name] == pytest.approx(np.average(values, weights=counts))


@pytest.mark.parametrize("way", [*VALIDATIONS.values(), *BITS.values()])
def test_ranks_share_the_work_and_tell_what_one_tells(way, network, monkeypatch):
    seen, parts, hidden = [], [], network.hidden_at_once
    monkeypatch.setattr(
        *(network, "hidden_at_once"),
        lambda tokens, *rest: seen.append(len(tokens)) or hidden(tokens, *rest),
    )
    settings = SETTINGS if way in VALIDATIONS.values() else {"chunk": 7}

    def told():
        with torch.no_grad():
            return way(RowLogits(network), [(TOKENS, LABELS)], **settings)

    whole = told()
    with monkeypatch.context() as shared:
        shared.setattr("Trainer.validation.summed", lambda sums, _: parts.append(sums) or sums)
        shared.setenv("WORLD_SIZE", "2")
        for rank in "01":
            shared.setenv("RANK", rank)
            told()
    assert seen == [7, 7, 7, 3, 7, 7, 7, 3]  # of one rank, of the first of two and of the second
    monkeypatch.setattr("Trainer.validation.summed", lambda sums, _: sum(parts))
    assert told() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("mode", VALIDATIONS)
def test_captions_are_cut_as_labels_are(mode):
    network = tiny.network(num_classes=0, caption_width=6)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(COUNT, 5, 6, generator=generator).double()
    given = Captions(features, torch.arange(5) < torch.arange(COUNT)[:, None] % 4)
    with torch.no_grad():
        found, whole = (
            VALIDATIONS[mode](RowLogits(network), [(TOKENS, given)], schedule="arccos", chunk=size)
            for size in (7, COUNT)
        )
    assert found == pytest.approx(whole)


@pytest.mark.parametrize("mode", VALIDATIONS)
def test_tokens_in_parts_are_scored_as_whole_ones(mode):
    """-log of the joint probability; a guess is right if both of its parts are."""
    network = tiny.network(codebook_size=12, low_bits=2)
    with torch.no_grad():
        network.output.forget()
        found = VALIDATIONS[mode](RowLogits(network), [(TOKENS, LABELS)], **SETTINGS)
    prefix = "ar_" if mode == "ar" else ""
    assert found[f"{prefix}loss"] == pytest.approx(math.log(12))
    if mode == "ar":  # the first of equals is guessed: token 0
        assert found["ar_acc"] == pytest.approx((TOKENS == 0).double().mean().item())


def test_bits_in_raster_order_are_the_log_likelihood(network):
    with torch.no_grad():
        found = bits_next(RowLogits(network), [(TOKENS, LABELS)], chunk=7)
        logits = network(TOKENS, LABELS, causal=True)
    likelihoods = logits.log_softmax(-1).gather(2, TOKENS.flatten(1)[..., None])
    assert found == pytest.approx(-likelihoods.sum().item() / COUNT / math.log(2))


def test_bits_in_a_drawn_order_are_a_mean_over_even_numbers_of_hidden_tokens(network):
    counts = (1 + np.floor(van_der_corput(16) * 16)).astype(int)
    assert sorted(counts) == [*range(1, 17)]  # each number of hidden tokens once
    bits = []
    for image, count in enumerate(counts.tolist()):
        mask = draw_mask(torch.tensor([count]), 0, torch.tensor([image]), 16)[0]
        tokens = TOKENS[image].flatten()
        with torch.no_grad():
            logits = network(tokens.masked_fill(mask, 11).view(1, 4, 4), LABELS[image, None])
        losses = -logits[0, mask].log_softmax(-1).gather(1, tokens[mask, None])
        bits.append(16 * losses.mean().item() / math.log(2))
    with torch.no_grad():
        found = bits_masked(RowLogits(network), [(TOKENS[:16], LABELS[:16])], chunk=7)
    assert found == pytest.approx(np.mean(bits))


def test_bits_of_a_network_that_knows_nothing_are_those_of_the_codes(network):
    torch.nn.init.zeros_(network.output.weight)
    with torch.no_grad():
        for bits in (bits_masked, bits_next):
            found = bits(RowLogits(network), [(TOKENS, LABELS)], chunk=7)
            codes = network.config.codebook_size
            assert found == pytest.approx(16 * math.log2(codes), rel=1e-5)


def test_hidden_states_are_measured_behind_each_block(network):
    rows = RowLogits(network)
    before = block_sizes(rows, (TOKENS, LABELS), "mar", 5)
    assert len(before) == len(network.blocks)
    with torch.no_grad():
        for name, weight in network.blocks[-1].named_parameters():
            if "norm" not in name:
                weight.mul_(5.0)
    after = block_sizes(rows, (TOKENS, LABELS), "mar", 5)
    assert after[:-1] == before[:-1]
    assert after[-1] != pytest.approx(before[-1])
    assert not network.blocks[0]._forward_hooks
