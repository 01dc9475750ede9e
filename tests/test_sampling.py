import pytest

from MaskGIL.sampling import SamplingConfig
from Network.config import UserError


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_steps": 0}, "sampling.num_steps must be at least 1, not 0."),
        ({"noise": -1.0}, "sampling.noise must be at least 0, not -1.0."),
        ({"guidance_scale": -0.5}, "sampling.guidance_scale must be at least 0, not -0.5."),
        ({"temperature": 0.0}, "sampling.temperature must be above 0, not 0.0."),
        ({"remask": -0.1}, "sampling.remask must lie in [0, 1], not -0.1."),
        ({"counts": (8, 0)}, "sampling.counts must be at least 1, not 0."),
        (
            {"counts": (4, 12)},
            "num_steps=8 contradicts counts, which has 2 steps; use num_steps=2 or leave counts "
            "empty.",
        ),
        (
            {"counts": (4, 12), "num_steps": 2, "legacy": True},
            "counts and legacy=true both say what steps reveal; use legacy=false.",
        ),
        ({"top_k": -1}, "sampling.top_k must be at least 0, not -1."),
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
