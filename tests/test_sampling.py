import pytest

from MaskGIL.sampling import SamplingConfig
from Network.config import UserError


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, not 0."),
        ({"noise": -1.0}, "noise must be at least 0, not -1.0."),
        ({"guidance_scale": -0.5}, "guidance_scale must be at least 0, not -0.5."),
        ({"remask": -0.1}, "remask must lie in [0, 1], not -0.1."),
        ({"counts": (8, 0)}, "counts must be at least 1, not 0."),
        (
            {"counts": (4, 12)},
            "num_steps=8 contradicts counts, which has 2 steps; use num_steps=2 or leave counts "
            "empty.",
        ),
        (
            {"counts": (4, 12), "num_steps": 2, "legacy": True},
            "counts and legacy=true both say what steps reveal; use legacy=false.",
        ),
        ({"guidance_power": 0.0}, "guidance_power must be above 0, not 0.0."),
        ({"guidance_from": -0.1}, "guidance_from must lie in [0, 1], not -0.1."),
        ({"guidance_until": 1.5}, "guidance_until must lie in [0, 1], not 1.5."),
        (
            {"guidance_from": 0.6, "guidance_until": 0.4},
            "guidance_from=0.6 is behind guidance_until=0.4, so there would be "
            "no guidance; lower the first, or use guidance_scale=1.",
        ),
        (
            {"guidance": "constant", "guidance_power": 2.0},
            "guidance_power=2 is of guidance=cosine, not of guidance=constant; use "
            "guidance=cosine or guidance_power=1.",
        ),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0."),
        ({"last_temperature": -1.0}, "last_temperature must be at least 0, not -1.0."),
        ({"top_k": -1}, "top_k must be at least 0, not -1."),
        ({"top_p": 0.0}, "top_p must be above 0, not 0.0."),
        ({"top_p": 1.1}, "top_p must lie in [0, 1], not 1.1."),
        ({"min_p": -0.1}, "min_p must lie in [0, 1], not -0.1."),
        ({"min_p": 2.0}, "min_p must lie in [0, 1], not 2.0."),
    ],
)
def test_settings_out_of_range(changes, sentence):
    with pytest.raises(UserError) as error:
        SamplingConfig(**changes)
    assert str(error.value) == sentence


def test_changes_leave_out_what_is_null():
    settings = SamplingConfig(num_steps=5)
    assert settings.changed(num_steps=None, order="halton") == SamplingConfig(
        num_steps=5, order="halton"
    )


def test_the_number_of_steps_follows_counts():
    found = SamplingConfig(num_steps=5).changed(counts=(1, 2, 3))
    assert found == SamplingConfig(num_steps=3, counts=(1, 2, 3))
    assert found.changed(counts=(), num_steps=7) == SamplingConfig(num_steps=7)
    with pytest.raises(UserError, match=r"^num_steps=5 contradicts counts, which has 3 steps; use"):
        found.changed(num_steps=5)


def test_ends_of_the_ranges():
    SamplingConfig(temperature=0.0, last_temperature=0.0, top_p=1.0, min_p=1.0)
    SamplingConfig(guidance="cosine", guidance_power=0.01, guidance_from=0.5, guidance_until=0.5)
