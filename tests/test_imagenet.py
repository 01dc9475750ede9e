import hashlib
import subprocess
import sys

import pytest

from MaskGIL.imagenet import (
    NUM_CLASSES,
    SYNSETS_SHA256,
    TRAIN_IMAGES,
    VAL_IMAGES,
    describe_count,
    imagenet_names,
    imagenet_synsets,
    is_imagenet,
)


def test_the_ids_number_the_classes():
    synsets = imagenet_synsets()
    assert len(synsets) == len(set(synsets)) == NUM_CLASSES
    assert list(synsets) == sorted(synsets)
    assert synsets.index("n01443537") == 1
    assert hashlib.sha256("\n".join(synsets).encode()).hexdigest() == SYNSETS_SHA256


def test_names_and_ids_have_one_order():
    # Numbers and ids as in the table of classes that came with the first ImageNet networks
    known = {
        0: ("tench", "n01440764"),
        1: ("goldfish", "n01443537"),
        207: ("golden retriever", "n02099601"),
        388: ("giant panda", "n02510455"),
        980: ("volcano", "n09472597"),
        999: ("toilet tissue", "n15075141"),
    }
    names, synsets = imagenet_names(), imagenet_synsets()
    assert {number: (names[number], synsets[number]) for number in known} == known
    assert len(names) == len(set(names)) == NUM_CLASSES


def test_every_name_is_among_the_words_of_its_id():
    from timm.data import ImageNetInfo

    words = ImageNetInfo().label_descriptions()
    pairs = zip(imagenet_names(), words, strict=True)
    others = [name for name, text in pairs if name.lower() not in text.lower()]
    assert others == ["crane bird", "maillot tank suit"]  # WordNet has two of a name there


def test_folders_are_recognised():
    synsets = list(imagenet_synsets())
    assert is_imagenet(synsets)
    assert is_imagenet(tuple(synsets))
    for other in ([], synsets[:-1], synsets[::-1], [*synsets, "cat"], imagenet_names(),
                  [*synsets[:-1], "n15075142"], ["\udcff"] * NUM_CLASSES):  # fmt: skip
        assert not is_imagenet(other)


def test_counts_are_those_of_the_challenge():
    # 732 to 1,300 training images a class, 50 validation images (the paper's table 2)
    assert 732 * NUM_CLASSES < TRAIN_IMAGES < 1300 * NUM_CLASSES
    assert VAL_IMAGES == 50 * NUM_CLASSES


@pytest.mark.slow
def test_timm_is_loaded_for_ids_only():
    code = (
        "import sys; from MaskGIL.classes import class_index, class_names; "
        "class_index('7', [], 1000); class_names([], 1000); assert 'timm' not in sys.modules; "
        "assert class_index('n01443537', [], 1000) == 1; assert 'timm' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_note_where_images_are_missing():
    ids = imagenet_synsets()

    def told(classes, count, split):
        return describe_count(Counted(classes, count), split)

    assert told(ids, 1_281_167, "train") == "1,281,167 images"
    assert told(ids, 50_000, "val") == "50,000 images"
    assert told(ids, 1_281_164, "train") == "1,281,164 images (ImageNet: 3 are missing)"
    assert told(ids, 51_000, "val") == "51,000 images (ImageNet: 1,000 too many)"
    assert told(["cat"] * 1000, 7, "train") == "7 images"  # another data set of 1,000 classes


class Counted:
    def __init__(self, classes, count):
        self.classes, self.count = classes, count

    def __len__(self):
        return self.count
