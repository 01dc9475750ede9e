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
        ({"top_k": -1}, "sampling.top_k must be at least 0, not -1."),
    ],
)
def test_settings_out_of_range(changes, sentence):
    with pytest.raises(UserError) as error:
        SamplingConfig(**changes)
    assert str(error.value) == sentence
