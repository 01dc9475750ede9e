import pytest
import torch

from MaskGIL.noise import random_bits
from MaskGIL.windows import Margins, fill_outward, num_windows, windows

MASK = 99
CASES = [
    ((4, 4), Margins(right=4)),
    ((4, 4), Margins(left=1, right=7, top=3, bottom=2)),
    ((8, 8), Margins(left=20, top=9)),
    ((5, 3), Margins(left=4, right=5, top=6, bottom=7)),
    ((2, 6), Margins(bottom=11)),
]


@pytest.mark.parametrize(("grid", "margins"), CASES)
def test_windows_fill_the_canvas_with_at_least_half_known(grid, margins):
    canvas = margins.pad(torch.zeros(grid), MASK)
    height, width = canvas.shape
    assert (height, width) == (
        grid[0] + margins.top + margins.bottom,
        grid[1] + margins.left + margins.right,
    )
    for _, row, column in windows(grid, margins):
        assert 0 <= row <= height - grid[0]
        assert 0 <= column <= width - grid[1]
        view = canvas[row : row + grid[0], column : column + grid[1]]
        assert (view == MASK).sum() <= view.numel() / 2
        view.fill_(0)
    assert not (canvas == MASK).any()


def test_the_middle_is_the_window_without_moves():
    margins = Margins(left=3, right=2, top=5, bottom=1)
    first = next(windows((4, 4), margins))
    assert first == ((0, 0), 5, 3)
    assert list(windows((4, 4), Margins())) == [((0, 0), 0, 0)]


def numbered(calls):
    """Fills what is hidden with the low bits of the seed."""

    def fill(view, seeds, on_step=None):
        calls.append((view.clone(), seeds))
        return torch.where(view == MASK, (seeds % 50)[:, None, None], view)

    return fill


def test_what_is_given_stays_and_the_rest_is_filled():
    tokens, seeds = torch.arange(32).view(2, 4, 4), torch.tensor([5, 6])
    margins, calls = Margins(left=2, right=3, top=1), []
    canvas = fill_outward(tokens, margins, seeds, MASK, numbered(calls))
    assert torch.equal(canvas[:, 1:, 2:6], tokens)
    assert not (canvas == MASK).any()
    assert all(view.shape == (2, 4, 4) for view, _ in calls)
    assert len({str(used.tolist()) for _, used in calls}) == len(calls)  # each its own noise
    assert torch.equal(tokens, torch.arange(32).view(2, 4, 4))


def test_the_noise_of_a_window_does_not_depend_on_the_canvas():
    tokens, seeds = torch.zeros(1, 4, 4, dtype=torch.int64), torch.tensor([5])
    small = fill_outward(tokens, Margins(right=2), seeds, MASK, numbered([]))
    large = fill_outward(tokens, Margins(left=4, right=6, bottom=2), seeds, MASK, numbered([]))
    assert torch.equal(large[:, :4, 8:10], small[:, :, 4:])
    expected = random_bits(seeds, "window", 0, 1) % 50
    assert (small[:, :, 4:] == expected).all()
    both = fill_outward(tokens.repeat(2, 1, 1), Margins(right=2), torch.tensor([9, 5]), MASK,
                        numbered([]))  # fmt: skip
    assert torch.equal(both[1:], small)


def test_every_step_of_every_window_is_told_of_and_none_changes_what_was_told():
    tokens, seeds = torch.arange(32).view(2, 4, 4), torch.tensor([5, 6])
    margins, told = Margins(left=2, right=3, top=1), []

    def fill(view, seeds, on_step):
        """In two steps, the first row that has anything hidden before the others."""
        for part in (view[:, :1], view):
            hidden = part == MASK
            part.masked_fill_(hidden, 7)
            on_step(0, view.clone(), torch.where(view == MASK, -torch.inf, -1.0))
        return view

    canvas = fill_outward(tokens, margins, seeds, MASK, fill, lambda *state: told.append(state))
    assert [step for step, *_ in told] == list(range(2 * num_windows((4, 4), margins)))
    hidden = [(shown == MASK).sum().item() for _, shown, _ in told]
    assert hidden == sorted(hidden, reverse=True)
    assert (hidden[0] > 0, hidden[-1]) == (True, 0)
    assert torch.equal(told[-1][1], canvas)
    for _, shown, confidence in told:
        assert torch.equal(confidence == -torch.inf, shown == MASK)
        assert (confidence[:, 1:, 2:6] == 0).all()  # of what was given
