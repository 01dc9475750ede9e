"""The cells of a sweep: rows of a file or a command line become samplers."""

from dataclasses import fields, replace

import pytest
import tiny

from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from MaskGIL.values import show_value
from Metrics.grid import KEYS, cells_of
from Network.config import UserError


@pytest.fixture(scope="module")
def pipe():
    sampling = SamplingConfig(num_steps=4, temperature=0.9)
    return Pipeline(
        tiny.network().float(), tiny.tokenizer(), "abc", sampling, objective="both"
    )  # 16 tokens


def titles(rows, pipe):
    return [cell.title for cell in cells_of(rows, pipe)]


def test_a_row_is_a_grid_and_rows_add_up(pipe):
    rows = ["num_steps=1 8 guidance_scale=1 2.5", "by chance order=random num_steps=2 4", "plan=ar"]
    cells = cells_of(rows, pipe)
    assert [cell.title for cell in cells] == [
        "num_steps=1 guidance_scale=1",
        "num_steps=1 guidance_scale=2.5",
        "num_steps=8 guidance_scale=1",
        "num_steps=8 guidance_scale=2.5",
        "by chance order=random num_steps=2",
        "by chance order=random num_steps=4",
        "plan=ar",
    ]
    assert [cell.series for cell in cells] == [""] * 4 + ["by chance order=random"] * 2 + [
        "plan=ar"
    ]
    assert cells[1].values == {"num_steps": 1, "guidance_scale": 2.5}
    assert cells[1].sampling == replace(pipe.sampling, num_steps=1, guidance_scale=2.5)
    assert cells[-1].sampling == replace(pipe.sampling, plan="ar")


def test_a_name_alone_is_the_sampler_of_the_weights(pipe):
    (cell,) = cells_of(["as it is"], pipe)
    assert (cell.title, cell.values, cell.sampling) == ("as it is", {}, pipe.sampling)


def test_every_setting_of_a_sampler_can_be_swept(pipe):
    assert [field.name for field in fields(SamplingConfig)] == KEYS
    beside = {"plan": "hybrid", "num_ar": 4, "remask": 0.1, "num_steps": 2}  # where all have effect
    for key in KEYS:
        value = (5, 7) if key == "counts" else getattr(pipe.sampling, key)
        wanted = {**beside, key: beside.get(key, value)}
        words = [f"{name}={show_value(each)}" for name, each in wanted.items()]
        (cell,) = cells_of([" ".join(words)], pipe)
        assert cell.sampling == pipe.sampling.changed(**cell.values)
        assert cell.values == wanted


def test_counts_need_no_comma(pipe):
    (four, two) = cells_of(["counts=4+4+4+4 8+8"], pipe)
    assert (four.title, two.title) == ("counts=4+4+4+4", "counts=8+8")
    assert (four.sampling.counts, two.sampling.counts) == ((4, 4, 4, 4), (8, 8))
    assert two.sampling.num_steps == 2


def test_rows_may_meet_in_a_cell_which_stays_one(pipe):
    rows = ["num_steps=2 4", "order=confidence random", "plan=mar num_steps=1 2"]
    assert titles(rows, pipe) == [
        "num_steps=2",
        "num_steps=4",  # confidence with 4 steps is as the weights have it
        "order=random",
        "plan=mar num_steps=1",
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("num_steps=17", "The cell 'num_steps=17' of sweep: num_steps=17 must lie between 1 and"),
        ("plan=mar num_steps=4 0", "The cell 'plan=mar num_steps=0' of sweep: num_steps "),
        ("order=chance", "The cell 'order=chance' of sweep: order takes one of confidence, random"),
        ("num_step=4", "'num_step' in sweep is no setting of a sampler. Did you mean 'num_steps'?"),
        ("weights=a b", "'weights' in sweep is no setting of a sampler. Known: plan, "),
        (
            "num_steps=1 num_steps=2",
            "sweep has num_steps twice in the row 'num_steps=1 num_steps=",
        ),
        ("num_steps=", "sweep has a row 'num_steps='; write KEY=VALUE VALUE ... for each axis, a "),
        ("", "sweep has a row ''; write KEY=VALUE VALUE ... for each axis, a name before them if"),
        ("'a", 'sweep has a row "\'a" with a quote that does not end.'),
        (
            "plan=ar num_steps=1 2",
            "The row 'plan=ar num_steps=1 2' of sweep: num_steps=1 has no effect: plan=ar draws "
            "one token a step, in raster order; leave it out.",
        ),
        (
            "plan=mar ar num_steps=1 2",
            "sweep makes 'plan=ar num_steps=1' and 'plan=ar num_steps=2', which sample alike; "
            "leave out the values that have no effect there, or write them in a row of their own.",
        ),
        (
            "order=random confidence noise=1 2",
            "sweep makes 'order=random noise=1' and 'order=random noise=2', which sample alike; ",
        ),
        ("2", "sweep has a row '2', whose name is that of a setting or a value: commas part"),
        ("1e-2", "sweep has a row '1e-2', whose name is that of a setting or a value: commas"),
        ("num_steps", "sweep has a row 'num_steps', whose name is that of a setting or a value"),
        ("halton", "sweep has a row 'halton', whose name is that of a setting or a value: commas"),
        (
            "2 guidance_scale=1",
            "sweep has a row '2 guidance_scale=1', whose name is that of a setting or a value: "
            "commas part rows; write the values of an axis with blanks, num_steps=1 2 4, and lists "
            "with +, counts=16+48.",
        ),
        ("num_steps=2 2", "sweep makes 'num_steps=2' and 'num_steps=2', which sample alike; leave"),
    ],
)
def test_sentences(pipe, row, sentence):
    with pytest.raises(UserError) as error:
        cells_of(["num_steps=8", row], pipe)
    assert str(error.value).startswith(sentence)
