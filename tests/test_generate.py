import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_text import save_encoder, save_text_weights
from tiny_weights import GRID, SIDE, save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.confidence_map import LEGEND_HEIGHT
from MaskGIL.imagenet import imagenet_synsets
from MaskGIL.pictures import MASKED_GREY
from MaskGIL.pipeline import Pipeline

CELL = SIDE + 2  # make_grid puts two pixels between and around images


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture(scope="module")
def pipe(weights):
    return Pipeline.from_pretrained(weights, "cpu", torch.float32)


@pytest.fixture
def generate(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def generate(*words):
        code = main(["generate", f"weights={weights}", "device=cpu", "precision=fp32", *words])
        return code, *capsys.readouterr()

    return generate


def cells(picture):
    """The images (rows, columns, 16, 16, 3) of a grid."""
    pixels = np.asarray(picture.convert("RGB"))[2:, 2:]
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    return pixels.reshape(rows, CELL, columns, CELL, 3).swapaxes(1, 2)[:, :, :SIDE, :SIDE]


def test_grid_shows_what_the_pipeline_makes(generate, pipe, tmp_path):
    code, out, err = generate("class_labels=red ring,3", "seed=5")
    assert (code, err) == (0, "")
    assert "images     2 of red ring, yellow circle, seed 5" in out
    assert "wrote      grid.png\n" in out
    images = cells(Image.open(tmp_path / "grid.png"))
    assert images.shape[:2] == (1, 2)
    expected = pipe(class_labels=["red ring", 3], generator=5).images
    assert all(np.array_equal(a, b) for a, b in zip(images[0], map(np.asarray, expected)))


def test_strip_and_gif_end_with_the_images_and_begin_grey(generate, tmp_path):
    words = ["class_labels=0,1,2", "num_steps=3", "strip=new/strip.png", "gif=decode.gif"]
    code, out, _ = generate(*words)
    assert code == 0
    assert "wrote      grid.png, new/strip.png, decode.gif" in out
    final = cells(Image.open(tmp_path / "grid.png"))[0]
    strip = cells(Image.open(tmp_path / "new/strip.png"))
    assert strip.shape[:2] == (3, 3)  # a row per image, a column per step
    assert np.array_equal(strip[:, -1], final)
    grey = (strip == MASKED_GREY).all(-1).mean((0, 2, 3))
    assert grey[0] > grey[1] > grey[2]
    with Image.open(tmp_path / "decode.gif") as gif:
        assert gif.n_frames == 3


def test_a_decoding_in_raster_order_is_shown(generate, tmp_path):
    folder = save_tiny_weights(tmp_path / "weights", objective="ar")
    words = [f"weights={folder}", "class_labels=0,1,2", "strip=strip.png", "gif=decode.gif"]
    code, out, _ = generate(*words)
    assert code == 0
    assert "sampler    64 steps, guidance 3" in out
    strip = cells(Image.open(tmp_path / "strip.png"))
    assert strip.shape[:2] == (3, 16)
    side = SIDE // GRID
    for column in range(15):
        hidden = (strip[0, column] == MASKED_GREY).all(-1)[::side, ::side].flatten()
        shown = 4 * (column + 1)  # tokens, in raster order
        assert not hidden[:shown].all()
        assert hidden[shown:].all()
    with Image.open(tmp_path / "decode.gif") as gif:
        assert gif.n_frames == 64


def test_a_plan_that_the_weights_have_not_learned(generate, tmp_path):
    code, _, err = generate("plan=ar")
    assert code == 2
    assert "objective=mar; use plan=mar, or sample with an AR network besid" in err
    folder = save_tiny_weights(tmp_path / "weights", objective="both")
    drawn = []
    for plan in ("ar", "mar", "auto"):
        words = [f"weights={folder}", f"plan={plan}", f"out={plan}.png", "class_labels=0,1"]
        assert generate(*words)[0] == 0
        drawn.append((tmp_path / f"{plan}.png").read_bytes())
    assert drawn[1] == drawn[2] != drawn[0]


def test_two_networks_draw_one_picture(generate, weights, tmp_path):
    causal = save_tiny_weights(tmp_path / "ar", objective="ar")
    words = [f"ar_weights={causal}", "plan=hybrid", "num_ar=16", "tokens=steps.npz"]
    code, out, _ = generate(*words, "class_labels=0,1", "seed=5")
    assert code == 0
    assert "sampler    20 steps" in out
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32, ar_folder=causal)
    expected = pipe([0, 1], generator=5, plan="hybrid", num_ar=16).tokens
    with np.load(tmp_path / "steps.npz") as found:
        assert np.array_equal(found["tokens"][-1], expected)
    code, _, err = generate(*words, "num_ar=65")
    assert code == 2
    assert err == "error: num_ar=65 must lie between 0 and the number of tokens, 64.\n"


def test_confidence_and_tokens_are_written(generate, pipe, tmp_path):
    words = ["class_labels=0,1,2", "out=", "confidence=new/map.png", "tokens=steps.npz"]
    code, out, _ = generate(*words, "seed=5")
    assert code == 0
    assert "wrote      new/map.png, steps.npz" in out
    assert not (tmp_path / "grid.png").exists()
    with np.load(tmp_path / "steps.npz") as found:
        assert found["tokens"].shape == (4, 3, GRID, GRID)
        assert np.array_equal(found["tokens"][-1], pipe([0, 1, 2], generator=5).tokens)
    assert Image.open(tmp_path / "new/map.png").size == (316, SIDE + 4 + LEGEND_HEIGHT)


@pytest.mark.parametrize(
    ("classes", "words", "shown"),
    [
        (imagenet_synsets(), ["class_labels=n01443537,207"], "2 of goldfish, golden retriever"),
        ((), ["num_images=3"], "3 of no class"),
    ],
)
def test_the_plan_names_classes_for_people(tmp_path, capsys, classes, words, shown):
    folder = save_tiny_weights(tmp_path / "weights", classes=classes)
    assert main(["generate", f"weights={folder}", "device=cpu", "--dry-run", *words]) == 0
    assert f"images     {shown}, seed 0\n" in capsys.readouterr().out


def test_a_picture_may_be_replaced_and_enlarged(generate, tmp_path):
    generate("class_labels=0,1")
    generate("class_labels=0,1", "enlarge=3")
    assert Image.open(tmp_path / "grid.png").size == (2 * (3 * SIDE + 2) + 2, 3 * SIDE + 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["class_labels=red rung"], "Unknown class 'red rung'. Did you mean 'red ring'? Known: "),
        (["class_labels=16"], "Class 16 does not exist; the model knows 0 to 15."),
        (["class_labels=1,2,3", "num_images=2"], "num_images=2 is less than the 3 classes of "),
        (["out="], "out, strip, gif, confidence and tokens and images are empty; name a file to "),
        (["out=a.png", "strip=a.png"], "Two of out, strip, gif, confidence and tokens name the "),
        (["tokens=a.npy"], "tokens=a.npy must end in .npz."),
        (["gif=a.mp4"], "gif=a.mp4 must end in .gif."),
        (["num_step=3"], "Unknown key 'num_step' on the command line. Did you mean 'num_steps'?"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(generate, tmp_path, words, sentence):
    code, _, err = generate(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing(generate, tmp_path):
    code, out, _ = generate("--dry-run")
    assert code == 0
    assert "sampler    4 steps" in out
    assert list(tmp_path.iterdir()) == []


# Prompts


@pytest.fixture(scope="module")
def text_weights(tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    return save_text_weights(place / "weights", save_encoder(place / "encoder"))


@pytest.fixture
def draw(text_weights, generate):
    return lambda *words: generate(*words, f"weights={text_weights}")


@pytest.fixture(scope="module")
def text_pipe(text_weights):
    return Pipeline.from_pretrained(text_weights, "cpu", torch.float32)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_prompt_is_one_text_with_its_commas(draw, text_pipe, tmp_path):
    words = ["prompt=a red star, dark", "negative_prompt=blue", "num_images=3", "seed=4"]
    code, out, err = draw(*words, "images=drawn", "tokens=steps.npz", "strip=s.png", "gif=d.gif")
    assert (code, err) == (0, "")
    assert "images     3 of 'a red star, dark', seed 4\n" in out
    assert "wrote      grid.png, s.png, d.gif, steps.npz, drawn\n" in out
    expected = text_pipe(prompt=["a red star, dark"] * 3, negative_prompt="blue", generator=4)
    names = ["00000-00.png", "00000-01.png", "00000-02.png"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names
    for name, image in zip(names, expected.images):
        assert np.array_equal(read(tmp_path / "drawn" / name), np.asarray(image))
    with np.load(tmp_path / "steps.npz") as stored:
        assert np.array_equal(stored["tokens"][-1], expected.tokens)
        assert stored["prompts"].tolist() == ["a red star, dark"] * 3


def test_any_height_and_width(draw, generate, text_pipe, tmp_path):
    words = ["height=4", "width=12", "images=drawn", "confidence=map.png"]
    assert draw("prompt=a star", *words, "plan=ar")[1].count("sampler    12 steps") == 1
    (expected,) = text_pipe(prompt="a star", height=4, width=12, plan="ar").images
    assert np.array_equal(read(tmp_path / "drawn/00000.png"), np.asarray(expected))
    code, out, _ = generate("class_labels=0", "height=8", "width=16", "counts=16,16", "images=wide")
    assert (code, "sampler    2 steps" in out) == (0, True)
    assert read(tmp_path / "wide/00000.png").shape == (8, 16, 3)


def test_a_file_of_prompts_with_a_seed_for_each_image(draw, text_pipe, tmp_path):
    (tmp_path / "prompts.txt").write_text("a star\na red ring, a heart\n")
    words = ["prompts=prompts.txt", "seeds=7,-1", "out=", "images=drawn"]
    code, out, _ = draw(*words)
    assert code == 0
    assert "images     2 of 'a star' and 1 more, seeds 7,-1\n" in out
    expected = text_pipe(prompt=["a star", "a red ring, a heart"], generator=[7, -1]).images
    for name, image in zip(("00000.png", "00001.png"), expected):
        assert np.array_equal(read(tmp_path / "drawn" / name), np.asarray(image))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == []


def test_geneval_and_mjhq_as_their_scorers_want_them(draw, text_pipe, tmp_path):
    entries = [{"tag": "single_object", "prompt": text} for text in ("a star", "a heart")]
    lines = "\n".join(map(json.dumps, entries))
    (tmp_path / "geneval.jsonl").write_text(lines)
    assert draw("prompts=geneval.jsonl", "num_images=2", "out=", "images=geneval")[0] == 0
    drawn = text_pipe(prompt=["a star"] * 2 + ["a heart"] * 2, generator=0).images
    places = [f"0000{row}/samples/000{number}.png" for row in (0, 1) for number in (0, 1)]
    for place, image in zip(places, drawn):
        assert np.array_equal(read(tmp_path / "geneval" / place), np.asarray(image))
    found = json.loads((tmp_path / "geneval/00001/metadata.jsonl").read_text())
    assert found == entries[1]
    (tmp_path / "mjhq.json").write_text('{"ab12": {"category": "food", "prompt": "a star"}}')
    assert draw("prompts=mjhq.json", "out=", "images=mjhq")[0] == 0
    assert np.array_equal(read(tmp_path / "mjhq/food/ab12.png"), np.asarray(drawn[0]))


def test_an_empty_and_a_long_prompt_are_noted_once(draw):
    code, out, _ = draw("num_images=2")
    assert code == 0
    assert out.startswith("note       An empty prompt asks for nothing: its image is drawn without")
    assert "images     2 of no prompt, seed 0\n" in out
    assert "sampler    5 steps, no guidance, " in out
    _, out, _ = draw("negative_prompt=dark", "guidance_scale=2")  # that leads somewhere
    assert "sampler    5 steps, guidance 2, " in out
    _, out, _ = draw("prompt=two red circle above a blue square on a dark ring", "num_images=2")
    assert out.startswith("note       A caption of 13 tokens is cut to 10, the most for ")
    assert out.count("note") == 1


def test_the_text_encoder_may_lie_elsewhere(draw, text_weights, tmp_path):
    shutil.copytree(text_weights.parent / "encoder", tmp_path / "moved")
    save_encoder(tmp_path / "other", seed=1)
    assert draw("prompt=a star", "text_encoder=moved")[0] == 0
    code, _, err = draw("prompt=a star", "text_encoder=other", "--dry-run")
    assert code == 2
    assert err.startswith("error: text_encoder=other has the fingerprint ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["class_labels=3"], "class_labels is not for these weights, which know prompts; use pro"),
        (["prompt=a", "prompts=b.txt"], "prompt and prompts both say what to draw; leave one of"),
        (["prompts=b.txt"], "No such file of prompts: b.txt."),
        (
            ["negative_prompt=dark", "guidance_scale=1"],
            "negative_prompt=dark has no effect: no step has guidance: look at guidance_scale, g",
        ),
        (["guidance_scale=2"], "guidance_scale=2.0 has no effect: neither a class nor a prompt is"),
        (["seeds=1,2"], "seeds has 2 for 1 images; give one for each, or seed alone."),
        (["seeds=1", "seed=2"], "seed has no effect beside seeds; leave one of them out."),
        (["height=9"], "height=9 must be a multiple of 2; the nearest are 8 and 10."),
        (["num_images=3000"], "3,000 images are too many for one picture, 2,048 at most; write e"),
        (["text_encoder=nowhere"], "text_encoder=nowhere has no effect without a prompt; leave it"),
        (
            ["prompt=a", "text_encoder=nowhere"],
            "text_encoder=nowhere is no folder and none of the names flan",
        ),
    ],
)
def test_mistakes_of_prompts(draw, tmp_path, words, sentence):
    code, _, err = draw(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_prompts_need_weights_that_know_them(generate):
    code, _, err = generate("prompt=a star")
    told = "error: prompt is not for these weights, which know classes; use class_labels=...\n"
    assert (code, err) == (2, told)
