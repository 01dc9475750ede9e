import pytest
from tiny_runs import config, tokenizer_weights

from MaskGIL.weights import open_tokenizer
from Network.config import UserError
from Trainer.agreement import check_bucket, check_network

CAPTIONS = ("network.num_classes=0", "network.caption_width=16")
FREE = "network.learned_positions=false"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_weights(tmp_path_factory.mktemp("runs"))


def check(folder, *words, classes=16):
    run = config("generator", folder, *words)
    return check_network(run, open_tokenizer(run.tokenizer), classes)


@pytest.mark.parametrize(
    "words",
    [
        (),
        (*CAPTIONS, "text.encoder=flan-t5-xl"),
        (FREE, "data.buckets=32x48,24x24"),
        ("network.num_classes=0",),
    ],
)
def test_parts_that_fit(folder, words):
    assert check(folder, *words) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("data.image_size=33",),
            "data.image_size=33 is not divisible by the tokenizer's stride 8.",
        ),
        (
            ("network.codebook_size=9",),
            "The tokenizer has 32 codes, network.codebook_size is 9. Use",
        ),
        (
            ("network.grid=4,8",),
            "Images of 32 pixels give 4x4 tokens, network.grid is 4x8. Use net",
        ),
        (
            ("network.num_classes=7",),
            "Data has 16 classes, network.num_classes is 7. Use network.n",
        ),
        (
            ("text.encoder=flan-t5-xl",),
            "text.encoder=flan-t5-xl has no effect without captions; gi",
        ),
        (("text.precision=bf16",), "text.precision=bf16 has no effect without captions; gi"),
        (("text.skip_layers=2",), "text.skip_layers=2 has no effect without captions; give"),
        (
            ("data.buckets=32x32,32x48",),
            "data.buckets needs a network for any grid, and this one le",
        ),
        (
            ("network.rotary=published", "objective=ar"),
            "A network of network.kind=gpt learns objec",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named_with_the_remedy(folder, words, sentence):
    with pytest.raises(UserError) as error:
        check(folder, *words)
    assert str(error.value).startswith(sentence)


def test_the_nearest_shapes_of_a_bucket_are_named():
    check_bucket((32, 48), 8)
    with pytest.raises(UserError) as error:
        check_bucket((36, 47), 8)
    assert str(error.value) == (
        "data.buckets has 36x47, whose sides are no multiples of the tokenizer's stride 8; "
        "nearest: 32x40, 32x48, 40x40, 40x48."
    )
