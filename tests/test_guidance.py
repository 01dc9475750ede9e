import pytest
import torch

from MaskGIL.guidance import GUIDANCE, guide, scale_at
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.0, 0.3, 0.5, 1.0, 1.5, 3.0, 20.0])
def test_guidance_is_its_formula_in_every_channel(scale):
    conditional, null = random(2, 3, 50), random(2, 3, 50, seed=1)
    expected = null.double() + scale * (conditional.double() - null.double())
    found = guide(conditional, null, scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    if scale in (0.0, 1.0):
        assert torch.equal(found, conditional if scale else null)


def test_guidance_of_half_precision_is_wide():
    conditional, null = random(4, 50).bfloat16(), random(4, 50, seed=1).bfloat16()
    assert torch.equal(guide(conditional, null, 3.0), guide(conditional.float(), null.float(), 3.0))


def scales(progresses, **settings):
    return [scale_at(SamplingConfig(**settings), progress) for progress in progresses]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_ramps(scale):
    quarters = [0, 0.25, 0.5, 0.75, 1]
    ramps = {name: scales(quarters, guidance=name, guidance_scale=scale) for name in GUIDANCE}
    assert ramps["constant"] == [scale] * 5
    step = (scale - 1) / 4
    assert ramps["linear"] == pytest.approx([1, 1 + step, 1 + 2 * step, 1 + 3 * step, scale])
    low, high = (1 - 0.5**0.5) / 2, (1 + 0.5**0.5) / 2  # cos(pi / 4) = sqrt(1 / 2)
    shares = [0, low, 0.5, high, 1]
    assert ramps["cosine"] == pytest.approx([1 + (scale - 1) * share for share in shares])
    assert ramps["linear"][0] == ramps["cosine"][0] == 1  # exactly: then no null pass is made


def test_the_power_moves_the_cosine():
    ramp = {"guidance": "cosine", "guidance_scale": 5.0}
    assert scales([0.25, 0.5, 1], **ramp, guidance_power=0.5) == pytest.approx(
        [3.0, *scales([0.5**0.5, 1], **ramp)]
    )
    assert scales([0.5**0.25, 1], **ramp, guidance_power=4.0) == pytest.approx([3.0, 5.0])


def test_guidance_is_off_outside_its_interval():
    settings = {"guidance_scale": 3.0, "guidance_from": 0.25, "guidance_until": 0.75}
    progresses = [0, 0.2, 0.25, 0.5, 0.75, 0.8, 1]
    assert scales(progresses, **settings, guidance="constant") == [1, 1, 3, 3, 3, 1, 1]
    assert scales(progresses, **settings, guidance="linear") == [1, 1, 1.5, 2, 2.5, 1, 1]


def test_unknown_guidance():
    with pytest.raises(UserError) as error:
        scale_at(SamplingConfig(guidance="ramp"), 0.5)
    assert str(error.value) == "Unknown guidance 'ramp'. Known: constant, linear, cosine."
