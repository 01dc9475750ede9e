import numpy as np
import pytest
import torch
from PIL import Image
from tiny_weights import GRID, SIDE, save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.confidence_map import LEGEND_HEIGHT
from MaskGIL.config import load_config
from MaskGIL.generate import GenerateConfig, choose_labels
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
    ("words", "expected", "columns"),
    [
        ([], [0, 2, 4, 6, 8, 10, 12, 15], 8),
        (["num_images=3"], [0, 7, 15], 3),
        (["class_labels=4,9", "num_images=5"], [4, 4, 4, 9, 9], 3),
        (["class_labels=7", "num_images=9"], [7] * 9, 8),
        (["class_labels=9,9"], [9, 9], 2),
    ],
)
def test_labels_and_columns(pipe, words, expected, columns):
    labels, number = choose_labels(pipe, load_config(GenerateConfig, None, words))
    assert (labels.tolist(), number) == (expected, columns)


def test_without_classes_the_null_condition_is_shown(tmp_path):
    folder = save_tiny_weights(tmp_path / "weights", classes=())
    pipe = Pipeline.from_pretrained(folder, "cpu", torch.float32)
    labels, _ = choose_labels(pipe, GenerateConfig(num_images=3))
    assert labels.tolist() == [pipe.network.null_label] * 3


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
        (["out="], "out, strip, gif, confidence and tokens are empty; name a file to write, out="),
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
