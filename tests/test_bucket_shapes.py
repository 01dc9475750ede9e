import pytest

from MaskGIL.data.bucket_shapes import choose_shape, read_shapes
from Network.config import UserError

SHAPES = [(32, 32), (32, 48), (48, 32)]
SIZES = [(384, 384), (256, 256), (320, 480), (512, 512), (256, 384)]


def test_shapes_are_height_x_width():
    assert read_shapes(["32x48", "256x256"]) == [(32, 48), (256, 256)]
    assert read_shapes([]) == []


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["256"], "data.buckets has '256'; write height x width in pixels, as 256x256,192x320."),
        (["0x32"], "data.buckets has '0x32'; write"),
        (["32x48", "48x32", "32x48"], "data.buckets=32x48,48x32,32x48 names a shape twice; name"),
    ],
)
def test_other_words_are_refused(texts, sentence):
    with pytest.raises(UserError) as error:
        read_shapes(texts)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [
        ((100, 100), (32, 32)),
        ((100, 122), (32, 32)),  # ratio 1.22 lies below the geometric mean of 1 and 1.5
        ((100, 123), (32, 48)),
        ((100, 900), (32, 48)),
        ((900, 100), (48, 32)),
    ],
)
def test_the_nearest_aspect_ratio_is_that_by_its_logarithm(shape, nearest):
    assert SHAPES[choose_shape(shape, SHAPES)] == nearest


@pytest.mark.parametrize(
    ("shape", "chosen"),
    [
        ((384, 384), (384, 384)),
        ((383, 384), (256, 256)),  # 384 rows would have to be made up
        ((900, 800), (512, 512)),
        ((600, 500), (384, 384)),  # 512 columns would
        ((100, 100), (256, 256)),  # is enlarged as little as may be
        ((320, 481), (320, 480)),
        ((300, 480), (256, 384)),
        ((2000, 3000), (320, 480)),  # no square, however large
    ],
)
def test_of_one_aspect_ratio_the_largest_that_is_filled_else_the_smallest(shape, chosen):
    assert SIZES[choose_shape(shape, SIZES)] == chosen
