from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from MaskGIL.data.descriptions import Description, Group
from MaskGIL.data.scenes import Scenes, random_scene
from MaskGIL.data.shapes import draw
from Metrics.prompt_score import ATTRIBUTES, asked, read_facts, score_prompts, shows_everything
from Network.config import UserError

NUM = 256
RED, BLUE = Group(1, "red", "circle"), Group(1, "blue", "square")
TWO_RED = RED._replace(number=2)
ABOVE = Description((TWO_RED, BLUE), "above", "dark")


def picture(description, size=(64, 64), seed=0):
    return draw(random_scene(description, size, np.random.default_rng(seed)), *size)


@pytest.fixture(scope="module")
def unseen():
    """Pictures of combinations that are held out, what is read of them, and a prompt of each."""
    scenes = Scenes("val", NUM, (64, 64), seed=9)
    images = np.stack([np.asarray(scenes.image(index)) for index in range(NUM)])
    return images, read_facts(images), [scenes.captions(index)[index % 2] for index in range(NUM)]


def blurred(images):
    """Through half of their size and back, with noise: worse than a tokenizer of any use."""
    noise = np.random.default_rng(0).normal(0, 8, images.shape)
    small = [Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in images]
    images = np.stack(
        [np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)) for image in small]
    )
    return np.clip(images + noise + 0.5, 0, 255).astype(np.uint8)


def test_true_drawings_have_all_that_is_asked(unseen):
    """Measured on these: 100 % of every attribute, through half of the size with noise 99 %."""
    images, facts, prompts = unseen
    scores = score_prompts(facts, prompts)
    assert tuple(scores) == ATTRIBUTES
    assert all(score.right >= 0.99 for score in scores.values())
    scores_of_worse = score_prompts(read_facts(blurred(images)), prompts)
    assert all(score.right >= 0.98 for score in scores_of_worse.values())
    assert scores["count"].asked == scores["everything"].asked == NUM
    assert 50 < scores["colour"].asked == scores["shape"].asked < 100  # two of seven
    assert 80 < scores["relation"].asked < 140  # three of seven


def test_shuffled_prompts_are_at_chance(unseen):
    _, facts, prompts = unseen
    order = np.random.default_rng(1).permutation(NUM)
    scores = score_prompts(facts, [prompts[place] for place in order])
    for name, score in scores.items():
        spread = np.sqrt(score.chance * (1 - score.chance) / score.asked)
        assert abs(score.right - score.chance) < 4 * spread + 1e-9, name
        assert score.chance < 0.5
    assert 0.15 < scores["colour"].chance < 0.35
    assert scores["relation"].chance < 0.02


def test_chance_is_the_mean_over_all_prompts_of_others(unseen):
    facts, prompts = unseen[1][:12], unseen[2][:12]
    scores = score_prompts(facts, prompts)
    for name in ("count", "background", "everything"):  # asked by every prompt
        right = [
            score_prompts([facts[one], facts[other]], [prompts[other], prompts[one]])[name].right
            for one, other in permutations(range(12), 2)
        ]
        assert scores[name].chance == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (ABOVE, set()),
        (ABOVE._replace(ground="light"), {"background", "everything"}),
        (ABOVE._replace(relation="left of"), {"relation", "everything"}),
        (ABOVE._replace(groups=(BLUE, TWO_RED)), {"relation", "everything"}),
        (ABOVE._replace(groups=(RED, BLUE)), {"count", "everything"}),
        (ABOVE._replace(groups=(RED, BLUE._replace(number=2))), {"everything"}),  # three still
        (ABOVE._replace(groups=(TWO_RED, RED._replace(shape="ring"))), {"relation", "everything"}),
        (Description((TWO_RED,), ground="dark"), {"count", "relation", "everything"}),
    ],
)
def test_what_is_wrong_is_told(shown, missing):
    (facts,) = read_facts(picture(shown)[None])
    assert {name for name, value in asked(ABOVE).items() if value not in facts[name]} == missing


def test_colour_and_shape_are_asked_of_single_objects():
    single = Description((BLUE,), ground="striped")
    assert asked(single) == {
        "colour": "blue",
        "shape": "square",
        "count": 1,
        "background": "striped",
        "everything": single,
    }
    assert "colour" not in asked(Description((TWO_RED,)))
    (facts,) = read_facts(picture(single)[None])
    assert (facts["colour"], facts["shape"]) == ({"blue"}, {"square"})


def test_a_prompt_without_background_leaves_it_free():
    prompt = Description((BLUE,))
    images = np.stack([picture(prompt._replace(ground=ground)) for ground in ("dark", "dotted")])
    scores = score_prompts(read_facts(images), [str(prompt)] * 2)
    assert "background" not in scores
    assert scores["everything"].right == 1


def test_an_empty_picture_has_nothing_but_its_background():
    scene = random_scene(Description((BLUE,), ground="dark"), (64, 64), np.random.default_rng(0))
    (facts,) = read_facts(draw(type(scene)((), scene.background), 64, 64)[None])
    assert facts == {name: set() for name in ATTRIBUTES} | {"count": {0}, "background": {"dark"}}


def test_a_wide_picture_is_read_too():
    left = ABOVE._replace(relation="left of")
    images = np.stack([picture(left, (64, 128)), picture(ABOVE, (64, 128))])
    scores = score_prompts(read_facts(images), [str(left), str(ABOVE)])
    assert scores["everything"].right == 1


def test_which_pictures_show_everything():
    shown = np.stack([picture(scene) for scene in (ABOVE, ABOVE._replace(ground="light"))])
    assert shows_everything(read_facts(shown), [str(ABOVE)] * 2) == [True, False]


def test_a_prompt_of_something_else_is_refused():
    with pytest.raises(UserError, match="names 0 groups of shapes"):
        score_prompts([{}], ["a photo of a dog"])
