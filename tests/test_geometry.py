"""In which size images are drawn and kept, and the filter between the two."""

import numpy as np
import pytest
import torch
from tiny_weights import SIDE, save_tiny_weights

from MaskGIL.config import load_config
from MaskGIL.pipeline import Pipeline
from Metrics.geometry import FILTER, find_geometry, resized
from Metrics.sample_config import SampleConfig
from Network.config import UserError


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")
    return Pipeline.from_pretrained(folder, "cpu", torch.float32)


def geometry(pipe, *words):
    return find_geometry(pipe, load_config(SampleConfig, None, words))


def test_as_the_network_learned_nothing_is_told(pipe):
    learned = geometry(pipe)
    assert learned == ((8, 8), (SIDE, SIDE), (SIDE, SIDE), {})
    assert geometry(pipe, f"height={SIDE}", f"width={SIDE}") == learned


def test_another_size_belongs_to_the_identity(pipe):
    assert geometry(pipe, "height=24", "width=24", "resize=16") == (
        (12, 12),
        (24, 24),
        (16, 16),
        {"height": 24, "width": 24, "resize": 16, "filter": FILTER},
    )
    tall = geometry(pipe, "height=32")
    assert tall == ((16, 8), (32, SIDE), (32, SIDE), {"height": 32, "width": SIDE})
    assert geometry(pipe, "resize=24").identity == {"resize": 24, "filter": FILTER}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["height=15"], "height=15 must be a multiple of 2; the nearest are 14 and 16."),
        (["resize=16"], "resize=16 is the size that the images have; leave it out."),
        (["height=32", "resize=24"], "resize=24 makes square images, those of height=32 and width"),
        (["resize=9", "train=a", "reference=a"], "resize=9 must be a multiple of 2: images are en"),
        (["height=2", "width=2", "num_steps=4"], "num_steps=4 must lie between 1 and the number o"),
    ],
)
def test_mistakes(pipe, words, sentence):
    with pytest.raises(UserError) as error:
        geometry(pipe, *words)
    assert str(error.value).startswith(sentence)


def cubic(distance, a=-0.75):
    """The kernel of Keys (1981), of which PyTorch takes a = -0.75 where it does not antialias."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def test_the_filter_is_the_one_that_is_named():
    large, small = 12, 8
    centres = (np.arange(small) + 0.5) * large / small - 0.5  # of half pixels
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)  # four, however small it gets
    weights = np.zeros((small, large))
    np.add.at(
        weights,
        (np.arange(small)[:, None], taps.clip(0, large - 1)),
        cubic(centres[:, None] - taps),
    )
    images = torch.randn(2, 3, large, large, generator=torch.Generator().manual_seed(0))
    expected = weights @ images.double().numpy() @ weights.T
    assert np.allclose(resized(images, small).numpy(), expected, atol=1e-5)
    assert "a = -0.75" in FILTER
