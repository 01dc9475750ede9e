import cmath

import pytest
import torch

from Network.rotary import INTERPOLATIONS, condition_table, rotary_table, rotate

CPU = torch.device("cpu")


def states(grid, heads=2, head_dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, grid[0] * grid[1], heads, head_dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 16)])
@pytest.mark.parametrize("head_dim", [4, 16, 100])
@pytest.mark.parametrize("base", [10000.0, 100.0])
def test_each_token_turns_by_its_own_row_and_column(grid, head_dim, base):
    """Pair by pair: the first half by the row, the second by the column, from fast to slow."""
    x = states(grid, heads=1, head_dim=head_dim)
    found = rotate(x, rotary_table(*grid, head_dim, CPU, base=base))
    quarter = head_dim // 4
    for token in {0, 1 % len(x[0]), len(x[0]) // 2, len(x[0]) - 1}:
        row, column = divmod(token, grid[1])
        for pair in range(head_dim // 2):
            position = row if pair < quarter else column
            angle = position * base ** (-2 * (pair % quarter) / (head_dim / 2))
            real, imaginary = x[1, token, 0, 2 * pair : 2 * pair + 2].tolist()
            expected = complex(real, imaginary) * cmath.exp(1j * angle)
            result = found[1, token, 0, 2 * pair : 2 * pair + 2].tolist()
            assert complex(*result) == pytest.approx(expected, abs=1e-5)  # float32 angles


def test_products_depend_on_the_distance_alone():
    grid = (6, 7)
    table = rotary_table(*grid, 16, CPU)
    q, k = (states((1, 1), heads=1, seed=seed).expand(-1, 42, -1, -1) for seed in (1, 2))
    products = rotate(q, table)[0, :, 0] @ rotate(k, table)[0, :, 0].T  # one q, one k everywhere
    products = products.view(*grid, *grid)
    for rows, columns in [(0, 0), (1, 0), (0, 1), (2, 3), (-1, 2)]:
        pairs = [
            products[r, c, r + rows, c + columns].item()
            for r in range(max(0, -rows), grid[0] - max(0, rows))
            for c in range(grid[1] - columns)
        ]
        assert len(pairs) > 10
        assert pairs == pytest.approx([pairs[0]] * len(pairs), abs=1e-5)
    distances = {round(products[0, 0, r, c].item(), 4) for r in range(6) for c in range(7)}
    assert len(distances) == 42  # each distance has its own product


BY_HAND = {  # base of the frequencies and position, of a side `stretch` times that of training
    "none": lambda position, stretch, d: (10000.0, position),
    "linear": lambda position, stretch, d: (10000.0, position / stretch),
    "ntk": lambda position, stretch, d: (10000.0 * stretch ** (d / (d - 2)), position),
}


@pytest.mark.parametrize("head_dim", [4, 16, 100])
@pytest.mark.parametrize("positions", INTERPOLATIONS)
def test_positions_beyond_training_are_those_of_the_papers(positions, head_dim):
    """By the change of base, as FiT writes it: d channels turn with a side."""
    x, d = states((6, 10), heads=1, head_dim=head_dim), head_dim // 2
    found = rotate(x, rotary_table(6, 10, head_dim, CPU, positions, (4, 5)))
    for token in (0, 3, 17, 59):
        for pair in range(d):
            axis, index = divmod(pair, d // 2)
            position, stretch = (divmod(token, 10)[axis], (6 / 4, 10 / 5)[axis])
            if index == 0 and positions == "ntk":  # whatever the base is
                angle = position
            else:
                base, position = BY_HAND[positions](position, stretch, d)
                angle = position * base ** (-2 * index / d)
            expected = complex(*x[1, token, 0, 2 * pair : 2 * pair + 2].tolist())
            result = complex(*found[1, token, 0, 2 * pair : 2 * pair + 2].tolist())
            assert result == pytest.approx(expected * cmath.exp(1j * angle), abs=1e-5)


@pytest.mark.parametrize("positions", INTERPOLATIONS)
def test_sides_within_training_are_untouched(positions):
    plain = rotary_table(4, 7, 16, CPU)
    assert torch.equal(rotary_table(4, 7, 16, CPU, positions, (4, 7)), plain)
    assert torch.equal(rotary_table(4, 7, 16, CPU, positions, (9, 8)), plain)
    longer = rotary_table(4, 7, 16, CPU, positions, (4, 6))  # of its columns
    assert torch.equal(longer[:, :4], plain[:, :4])
    assert torch.equal(longer, plain) == (positions == "none")
    longer = rotary_table(4, 7, 16, CPU, positions, (3, 7))  # of its rows
    assert torch.equal(longer[:, 4:], plain[:, 4:])
    assert torch.equal(longer, plain) == (positions == "none")


def test_the_longest_side_of_ntk_turns_slowly_as_in_training():
    """The fastest frequency as it was, the slowest no further than the last row of training."""
    tables = rotary_table(12, 1, 64, CPU, "ntk", (4, 1)), rotary_table(4, 1, 64, CPU)
    angles, trained = (torch.view_as_complex(table).angle()[:, :16] for table in tables)
    torch.testing.assert_close(angles[:4, 0], trained[:, 0])
    torch.testing.assert_close(angles[::3, -1], trained[:, -1])


def test_lengths_stay():
    x = states((4, 4))
    found = rotate(x, rotary_table(4, 4, 16, CPU))
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_arithmetic_is_the_same(monkeypatch, dtype, per_image):
    x, table = states((3, 5)).to(dtype), rotary_table(3, 5, 16, CPU)
    table = table[torch.arange(30).view(2, 15) * 7 % 15] if per_image else table
    eager = rotate(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = rotate(x, table)
    assert eager.dtype == compiled.dtype == dtype
    torch.testing.assert_close(eager, compiled, rtol=0, atol=2e-6)


@pytest.mark.parametrize("compiling", [False, True])
def test_bfloat16_is_turned_in_float32(monkeypatch, compiling):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x, table = states((3, 5)).bfloat16(), rotary_table(3, 5, 16, CPU)
    found = rotate(x, table)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rotate(x.float(), table), rtol=0, atol=0)


def test_rows_of_a_table_may_differ_between_images():
    x, table = states((2, 3)), rotary_table(2, 3, 16, CPU)
    rows = torch.tensor([[5, 0, 3, 3, 1, 2], [1, 1, 4, 0, 2, 5]])
    found = rotate(x, table[rows])
    for image in range(2):
        expected = rotate(x[image, None], table[rows[image]])
        torch.testing.assert_close(found[image, None], expected, rtol=0, atol=0)


def test_condition_tokens_stay_or_vanish():
    x = states((1, 3))
    assert torch.equal(rotate(x, condition_table("grid2d", 3, 16, CPU)), x)
    assert not rotate(x, condition_table("llamagen", 3, 16, CPU)).any()
    with pytest.raises(KeyError, match="published"):
        condition_table("published", 3, 16, CPU)


@pytest.mark.parametrize("head_dim", [7, 14])
def test_pairs_of_rows_and_columns_need_a_multiple_of_four(head_dim):
    with pytest.raises(ValueError, match=f"^head_dim must be a multiple of 4 .*, not {head_dim}$"):
        rotary_table(4, 4, head_dim, CPU)
