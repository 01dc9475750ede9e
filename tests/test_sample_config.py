"""What FID_sample.py is asked: keys that need each other, and those that exclude each other."""

import pytest

from MaskGIL.config import load_config
from Metrics.sample_config import SampleConfig
from Network.config import UserError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["num_images=1"], "num_images must be at least 2, not 1."),
        (["train=a"], "train needs a reference to tell what is near: give reference=... too."),
        (["reference=a", "ladder=true"], "ladder needs the training images: give train=... too."),
        (["reconstruct=a"], "reconstruct redraws the images of reference=... and samples none: gi"),
        (["sweep=a"], "sweep scores its cells against a reference: give reference=... too."),
        (
            ["sweep=a", "reference=b", "reconstruct=c"],
            "reconstruct has no effect on a sweep; l",
        ),
        (["precision_recall=false"], "precision_recall=false leaves out scores of samples against"),
        (
            ["sweep=a", "reference=b", "precision_recall=false"],
            "precision_recall=false leaves out",
        ),
        (["sweep=a", "reference=b", "num_images=19"], "num_images=19 is too few for the errors of"),
    ],
)
def test_sentences(words, sentence):
    with pytest.raises(UserError) as error:
        load_config(SampleConfig, None, words)
    assert str(error.value).startswith(sentence)


def test_grids_are_separated_by_commas_and_their_values_by_blanks():
    words = ["reference=a", "sweep=num_steps=1 2,a name plan=ar"]
    found = load_config(SampleConfig, None, words)
    assert found.sweep == ("num_steps=1 2", "a name plan=ar")
