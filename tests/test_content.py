import numpy as np
import pytest

from Network.config import UserError
from Trainer.content import check_content, data_content


class Photos:
    """Names, labels and classes; nobody looks at the pictures."""

    def __init__(self, names=("a.png", "b.png"), labels=(0, 1), classes=("cat", "dog")):
        self.names, self.labels, self.classes = names, np.array(labels), classes

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]


def refusal(here, there=None):
    """The sentence that refuses to resume a run of the photos `there` on those `here`."""
    with pytest.raises(UserError) as error:
        check_content("runs/x", data_content(there or Photos()), data_content(here))
    return str(error.value)


def test_the_same_photos_pass():
    check_content("runs/x", data_content(Photos()), data_content(Photos()))


def test_other_classes_are_named():
    assert refusal(Photos(classes=("cat", "cow"))) == (
        "runs/x was trained with classes named [2 of them, number 1 is dog], here it is "
        "[2 of them, number 1 is cow]; give the same one or name another out_dir."
    )
    assert "[2 of them, number 0 is cat], here it is [1 of them, number 0 is dog];" in refusal(
        Photos(classes=("dog",))
    )


def test_another_number_of_images_is_named():
    assert refusal(Photos(("a.png",), (0,))) == (
        "runs/x was trained with number of images 2, here it is 1; "
        "give the same one or name another out_dir."
    )


@pytest.mark.parametrize(
    "other", [Photos(("a.png", "c.png")), Photos(labels=(1, 0)), Photos(("a.pn", "gb.png"))]
)
def test_other_names_or_labels_are_noticed(other):
    assert "was trained with sha256 of image names " in refusal(other)


def test_a_checkpoint_that_notes_less_is_not_refused():
    check_content("runs/x", {}, data_content(Photos()))
